"""The vision transformer: pixels to image embeddings. Source: Dosovitskiy et al. 2020; Radford et al. 2021."""

from __future__ import annotations

import torch

from clipfast.config import VisionTransformerConfig
from clipfast.model.transformer import Residual, block, normalise, pooled_block, wide
from clipfast.ops import Ops, Tensor
from clipfast.parameters import VisionTransformer


def encode_vision(
    p: VisionTransformer, config: VisionTransformerConfig, ops: Ops, pixels: Tensor
) -> Tensor:
    """Image embeddings, not normalised.

    Args:
        pixels: (B, 3, R, R) uint8, or floating point and normalised already.
    Returns: (B, E) in the weights' dtype.
    """
    x = _blocks(p, config, ops, _embed(p, ops, pixels), config.layers - 1)
    pooled = pooled_block(
        ops,
        x,
        slice(None, None, config.tokens),  # the class rows
        p.blocks[-1],
        lambda query, kv: ops.attention_pool(query, kv, config.heads, length=config.tokens),
    )
    y = normalise(ops, pooled, p.ln_post, p.proj.weight)
    return ops.linear(y, p.proj.weight, p.proj.bias)


def vision_tokens(
    p: VisionTransformer, config: VisionTransformerConfig, ops: Ops, pixels: Tensor, layers: int
) -> Tensor:
    """The residual stream after `layers` blocks, class row first: (B, L, D) in the stream's dtype."""
    x = wide(_blocks(p, config, ops, _embed(p, ops, pixels), layers))
    return x.view(-1, config.tokens, config.width)


def _embed(p: VisionTransformer, ops: Ops, pixels: Tensor) -> Tensor:
    """Patches, class row and positions through ln_pre: (B * L, D), the start of the residual stream."""
    e = p.patch_embed
    if pixels.dtype == torch.uint8:
        tokens = ops.patch_embed(pixels, e.weight, e.bias, e.class_row, e.positions)
    else:
        pixels = pixels.to(e.float_weight.dtype)
        tokens = ops.patch_embed(pixels, e.float_weight, None, e.class_row, e.positions)
    return normalise(ops, tokens.flatten(0, 1), p.ln_pre, e.positions)


def _blocks(
    p: VisionTransformer, config: VisionTransformerConfig, ops: Ops, x: Residual, layers: int
) -> Residual:
    for layer in p.blocks[:layers]:
        x = block(ops, x, layer, lambda qkv: ops.attention(qkv, config.heads, length=config.tokens))
    return x
