"""Why the residual stream is float32 and has its mean: what each choice costs in cosine, twelve blocks deep.

fp32 stream      bfloat16 matrices, LayerNorm in float32, the stream in float32: what the towers do
bf16 stream      the same, the stream rounded to bfloat16 after every sum
zero mean        writers centred so that LayerNorm is a row scale in the product's epilogue: the product reads the
                 stream itself, rounded to bfloat16, where the others read the normalised row
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from clipfast.backends import reference
from clipfast.backends.reference import REFERENCE
from clipfast.checkpoint.folds import fold
from clipfast.config import ModelConfig, VisionTransformerConfig
from clipfast.model import encode_vision
from clipfast.parameters import Block, Linear, VisionTransformer, map_tensors
from tests.random_weights import random_weights, tiny, with_outliers
from tests.tolerances import BF16_STREAM_COSTS, ZERO_MEAN_COSTS

BF16 = torch.bfloat16


def deep() -> ModelConfig:
    config = tiny("quick_gelu")
    vision = replace(config.vision, layers=12, width=256, heads=4, mlp_width=1024)
    return replace(config, vision=vision)


def product(
    x: torch.Tensor, layer: Linear, scale: torch.Tensor, activation: str | None
) -> torch.Tensor:
    """activation(scale * (x @ weight^T) + bias): bfloat16 operands, float32 until the end."""
    y = (x.to(BF16).float() @ layer.weight.float().T) * scale[:, None]
    y = y if layer.bias is None else y + layer.bias.float()
    return reference.activate(y, activation).to(BF16)  # type: ignore[arg-type]


def centred(layer: Linear) -> Linear:
    """The layer whose outputs have no mean over the features."""
    weight, bias = layer.weight.float(), layer.bias
    assert bias is not None
    shifted = (bias.float() - bias.float().mean()).to(BF16)
    return Linear((weight - weight.mean(dim=0)).to(BF16), shifted)


def zero_mean(
    p: VisionTransformer, config: VisionTransformerConfig, pixels: torch.Tensor
) -> torch.Tensor:
    """The tower with centred writers; all tokens through all blocks, pooled at the end."""
    e = p.patch_embed
    tokens = reference.patch_embed(pixels, e.weight, e.bias, e.class_row, e.positions)
    x = reference.layer_norm(
        tokens.flatten(0, 1).float(), p.ln_pre.weight, p.ln_pre.bias, p.ln_pre.eps
    )
    assert isinstance(x, torch.Tensor)
    x = x - x.mean(dim=1, keepdim=True)
    for block in p.blocks:
        x = centred_block(x, block, config)
    pooled = x[:: config.tokens]
    y = reference.layer_norm(pooled, p.ln_post.weight, p.ln_post.bias, p.ln_post.eps, dtype=BF16)
    assert isinstance(y, torch.Tensor)
    return F.linear(y, p.proj.weight)


def centred_block(x: torch.Tensor, block: Block, config: VisionTransformerConfig) -> torch.Tensor:
    def scale(stream: torch.Tensor) -> torch.Tensor:
        return torch.rsqrt(stream.square().mean(dim=1) + block.ln_1.eps)

    one = x.new_ones(len(x))
    qkv = product(x, block.qkv, scale(x), None)
    attended = reference.attention(qkv, config.heads, length=config.tokens)
    x = x + product(attended, centred(block.out_proj), one, None)
    hidden = product(x, block.c_fc, scale(x), block.activation)
    return x + product(hidden, centred(block.c_proj), one, None)


def errors(outliers: bool) -> dict[str, float]:
    """1 - smallest cosine to float64, of rows without their mean."""
    config = deep()
    vision = config.vision
    assert isinstance(vision, VisionTransformerConfig)
    weights = random_weights(config, seed=2)
    weights = with_outliers(weights) if outliers else weights
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (16, 3, 64, 64), dtype=torch.uint8, generator=generator)
    wide, narrow = fold(weights, config, torch.float64).vision, fold(weights, config, BF16).vision
    assert isinstance(wide, VisionTransformer)
    assert isinstance(narrow, VisionTransformer)
    rounded = map_tensors(narrow, lambda part: part.to(BF16))
    rows = {
        "fp32 stream": encode_vision(narrow, vision, REFERENCE, pixels),
        "bf16 stream": encode_vision(rounded, vision, REFERENCE, pixels),
        "zero mean": zero_mean(narrow, vision, pixels),
    }
    truth = encode_vision(wide, vision, REFERENCE, pixels)
    mean = truth.mean(dim=0)
    return {
        name: 1 - F.cosine_similarity(found.double() - mean, truth - mean).min().item()
        for name, found in rows.items()
    }


@pytest.mark.parametrize("outliers", [False, True], ids=["random", "outliers"])
def test_a_float32_stream_is_worth_its_bytes(outliers: bool) -> None:
    found = errors(outliers)
    print({name: f"{error:.1e}" for name, error in found.items()})
    assert found["bf16 stream"] >= BF16_STREAM_COSTS * found["fp32 stream"]
    # Normalised rows or the stream itself: the products' operands are rounded alike.
    assert found["zero mean"] <= ZERO_MEAN_COSTS * found["fp32 stream"]
