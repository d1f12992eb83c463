"""The residual stream: float32, its LayerNorms inside the products that read it. Exact in float64, and what each costs.

fp32 stream      bfloat16 matrices, LayerNorm in float32, the stream in float32
bf16 stream      the same, the stream rounded to bfloat16 after every sum
norms inside     the first: products read the stream itself, rounded to bfloat16, where the others read normalised rows
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
from clipfast.model import encode_text, encode_vision, text_tokens, vision_tokens
from clipfast.ops import LinearActivation, Ops, Stream, StreamProducts
from clipfast.parameters import VisionTransformer, map_tensors
from tests.model.test_folds import packed, padded_ids, pixels_for, relative_error
from tests.model.textbook import Textbook
from tests.random_weights import random_weights, tiny, with_outliers
from tests.tolerances import BF16_STREAM_COSTS, FOLDS_FLOAT64, NORMS_INSIDE_COSTS

BF16 = torch.bfloat16
Tensor = torch.Tensor


def add(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> Stream:
    y = reference.linear(x, weight, bias, residual=residual)
    parts = y.tensor_split(3, dim=1)
    sums = [part.sum(dim=1) for part in parts] + [part.square().sum(dim=1) for part in parts]
    return Stream(y, y.to(weight.dtype), torch.stack(sums, dim=1))


def read(
    stream: Stream,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    *,
    activation: LinearActivation | None = None,
) -> Tensor:
    """Operands in the weight's dtype, float32 or wider until the end."""
    wide = stream.sums.dtype
    mean, square = (part.sum(dim=1) / weight.shape[1] for part in stream.sums.chunk(2, dim=1))
    y = (stream.narrow.to(wide) @ weight.to(wide).T) * torch.rsqrt(square - mean**2 + eps)[:, None]
    y = y if bias is None else y + bias.to(wide)
    return reference.activate(y, activation).to(weight.dtype)


NORMS_INSIDE = replace(REFERENCE, stream=StreamProducts(add, read))


def deep() -> ModelConfig:
    config = tiny("quick_gelu")
    vision = replace(config.vision, layers=12, width=256, heads=4, mlp_width=1024)
    return replace(config, vision=vision)


@pytest.mark.parametrize("layers", [1, 3])
def test_towers_with_their_norms_inside_equal_the_textbook(layers: int) -> None:
    config = tiny(layers=layers)
    vision = config.vision
    assert isinstance(vision, VisionTransformerConfig)
    tensors = with_outliers(random_weights(config, seed=0))
    p, textbook = fold(tensors, config, torch.float64), Textbook(tensors, config)
    assert isinstance(p.vision, VisionTransformer)
    pixels, ids = pixels_for(config), padded_ids(config, [2, 5, config.text.context_length, 5])
    rows = packed(ids, config.text.eot_id)
    images = encode_vision(p.vision, vision, NORMS_INSIDE, pixels)
    assert relative_error(images, textbook.image(pixels)) < FOLDS_FLOAT64
    texts = encode_text(p.text, config.text, NORMS_INSIDE, rows)
    assert relative_error(texts, textbook.text(ids)) < FOLDS_FLOAT64
    states = vision_tokens(p.vision, vision, NORMS_INSIDE, pixels, layers)
    truth = textbook.image_tokens(textbook.normalised(pixels))[layers]
    assert relative_error(states, truth) < FOLDS_FLOAT64
    for final_norm in (False, True):
        options = {"layers": layers, "final_norm": final_norm}
        ours, plain = (
            text_tokens(p.text, config.text, ops, rows, **options)  # type: ignore[arg-type]
            for ops in (NORMS_INSIDE, REFERENCE)
        )
        assert relative_error(ours, plain) < FOLDS_FLOAT64


def test_layer_norms_that_are_left() -> None:
    """ln_pre, the first block's, and ln_post; every other one is inside a product."""
    config, counted = deep(), []

    def layer_norm(*args: object, **options: object) -> object:
        counted.append(args)
        return reference.layer_norm(*args, **options)  # type: ignore[arg-type]

    p, vision = fold(random_weights(config, seed=0), config, torch.float32).vision, config.vision
    for ops, calls in ((NORMS_INSIDE, 3), (REFERENCE, 2 + 2 * 12 + 1)):
        counted.clear()
        encode_vision(p, vision, replace(ops, layer_norm=layer_norm), pixels_for(config))  # type: ignore[arg-type]
        assert len(counted) == calls


def errors(outliers: bool) -> dict[str, float]:
    """1 - smallest cosine to float64, of rows without their mean."""
    config = deep()
    vision = config.vision
    assert isinstance(vision, VisionTransformerConfig)
    weights = random_weights(config, seed=2)
    weights = with_outliers(weights) if outliers else weights
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (16, 3, 64, 64), dtype=torch.uint8, generator=generator)

    def rows(parameters: object, ops: Ops = REFERENCE) -> Tensor:
        assert isinstance(parameters, VisionTransformer)
        return encode_vision(parameters, vision, ops, pixels).double()

    truth = rows(fold(weights, config, torch.float64).vision)
    narrow = fold(weights, config, BF16).vision
    found = {
        "fp32 stream": rows(narrow),
        "bf16 stream": rows(map_tensors(narrow, lambda part: part.to(BF16))),
        "norms inside": rows(narrow, NORMS_INSIDE),
    }
    mean = truth.mean(dim=0)
    return {
        name: 1 - F.cosine_similarity(rows - mean, truth - mean).min().item()
        for name, rows in found.items()
    }


@pytest.mark.parametrize("outliers", [False, True], ids=["random", "outliers"])
def test_a_float32_stream_is_worth_its_bytes(outliers: bool) -> None:
    found = errors(outliers)
    print({name: f"{error:.1e}" for name, error in found.items()})
    assert found["bf16 stream"] >= BF16_STREAM_COSTS * found["fp32 stream"]
    # Normalised rows or the stream itself: the products' operands are rounded alike.
    assert found["norms inside"] <= NORMS_INSIDE_COSTS * found["fp32 stream"]
