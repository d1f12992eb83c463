"""Moves outlier channels from activations into weights before int8 rounding, at no cost when the graph runs.

    (x / s) (W s)^T = x W^T,   s_j = max|x_j|^a / max|W_:j|^(1 - a)

One scale serves a whole activation tensor, and CLIP's residual stream has a few channels a hundred times larger than
the others, which would leave those a handful of levels. 1/s goes where it is free: into the LayerNorm before qkv and
c_fc, whose own scale was folded away, and into the value rows before out_proj, which attention only averages.
c_proj reads an activation function, which no scale passes: it stays as it is.
Source: Xiao et al. 2022, SmoothQuant, arXiv:2211.10438, equation 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import torch

from clipfast.parameters import (
    Block,
    LayerNorm,
    Linear,
    Parameters,
    Tensor,
    TextTransformer,
    VisionTransformer,
)

Tower = TypeVar("Tower", VisionTransformer, TextTransformer)

# How much of the range moves into the weights: 0 nothing, 1 all of it. The paper's choice is 0.5 for most models.
MIGRATION = 0.5


def smooth(parameters: Parameters, channel_ranges: Mapping[int, Tensor]) -> Parameters:
    """The same towers with smoothed blocks; a ResNet's stay.

    Args:
        channel_ranges: storage of a weight -> (K,) largest magnitude of each channel that it multiplies.
    """
    vision = parameters.vision
    return replace(
        parameters,
        vision=_smooth_tower(vision, channel_ranges)
        if isinstance(vision, VisionTransformer)
        else vision,
        text=_smooth_tower(parameters.text, channel_ranges),
    )


def _smooth_tower(tower: Tower, channel_ranges: Mapping[int, Tensor]) -> Tower:
    blocks = tuple(
        _smooth_block(block, channel_ranges) if _storage(block.qkv) in channel_ranges else block
        for block in tower.blocks
    )
    return replace(tower, blocks=blocks)


def _smooth_block(p: Block, channel_ranges: Mapping[int, Tensor]) -> Block:
    width = p.out_proj.weight.shape[1]
    into_qkv, into_out, into_fc = (
        _migrated(channel_ranges[_storage(linear)], linear.weight)
        for linear in (p.qkv, p.out_proj, p.c_fc)
    )
    qkv = p.qkv.weight * into_qkv
    qkv[2 * width :] /= into_out[:, None]
    return replace(
        p,
        ln_1=_divided(p.ln_1, into_qkv),
        qkv=replace(p.qkv, weight=qkv),
        out_proj=replace(p.out_proj, weight=p.out_proj.weight * into_out),
        ln_2=_divided(p.ln_2, into_fc),
        c_fc=replace(p.c_fc, weight=p.c_fc.weight * into_fc),
    )


def _migrated(channels: Tensor, weight: Tensor) -> Tensor:
    """s: (K,), with a geometric mean of one. A channel that is always zero keeps its scale."""
    smallest = torch.finfo(torch.float32).tiny
    columns = weight.abs().amax(dim=0).clamp(min=smallest)
    log_scale = MIGRATION * channels.clamp(min=smallest).log() - (1 - MIGRATION) * columns.log()
    log_scale[(channels == 0) | (columns == smallest)] = 0
    return (log_scale - log_scale.mean()).exp()


def _divided(norm: LayerNorm, scale: Tensor) -> LayerNorm:
    """The folded norm (scale one, no shift) with its output divided by `scale`."""
    assert norm.weight is None, "the norm is folded into the linear that reads it"
    return LayerNorm(1 / scale, torch.zeros_like(scale), norm.eps)


def _storage(linear: Linear) -> int:
    return linear.weight.untyped_storage().data_ptr()
