"""Pillow 13's bicubic resize of the shorter side and centre crop, in plain torch integers: what `resize_crop` means.

    pass: out[i] = clip((2^21 + sum_k round(2^22 w[i, k]) in[first[i] + k]) >> 22, 0, 255)

w is Keys' cubic (a = -0.5) at (k - center + 0.5) / stretch, normalised in float64. Only the cropped region is computed.
Source: Pillow 13's Resample.c (MIT-CMU), from its description; the order of passes: python-pillow pull request 9549.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

Tensor = torch.Tensor

_WEIGHT_BITS = 22


def resize_crop(images: Sequence[Tensor], size: int) -> Tensor:
    """See `clipfast.ops.ResizeCrop`."""
    device = images[0].device if images else torch.device("cpu")
    out = torch.empty(len(images), 3, size, size, dtype=torch.uint8, device=device)
    for image, row in zip(images, out, strict=True):
        row.copy_(_resize_one(image, size))
    return out


def _resize_one(image: Tensor, size: int) -> Tensor:
    height, width = image.shape[:2]
    resized = [_resized(side, other, size) for side, other in ((height, width), (width, height))]
    lost_rows, lost_columns = height - resized[0], width - resized[1]
    pixels = image.movedim(2, 0).long()  # (3, H, W)
    rows_first = lost_rows > 2 * lost_columns and lost_rows > 0
    for axis in (1, 2) if rows_first else (2, 1):
        pixels = _pass(pixels, axis, resized[axis - 1], size)
    return pixels.to(torch.uint8)


def _resized(side: int, other: int, size: int) -> int:
    return int(size * side / other) if side > other else size


def _pass(pixels: Tensor, axis: int, resized: int, size: int) -> Tensor:
    """One axis of (3, H, W) int64 pixels: its size becomes `resized`, of which the middle `size` are computed."""
    source = pixels.shape[axis]
    start = round((resized - size) / 2)
    if source == resized:
        return pixels.narrow(axis, start, size)
    rows, weights = _taps(source, resized, torch.arange(start, start + size, device=pixels.device))
    lines = pixels.movedim(axis, 0)
    total = torch.full((size, *lines.shape[1:]), 1 << (_WEIGHT_BITS - 1), device=pixels.device)
    for tap_rows, tap_weights in zip(rows.T, weights.T, strict=True):
        total += lines[tap_rows] * tap_weights[:, None, None]
    return (total >> _WEIGHT_BITS).clamp(0, 255).movedim(0, axis)


def _taps(source: int, resized: int, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Source rows and int64 weights (positions, taps); beyond an output's own taps the weight is zero."""
    scale = source / resized
    stretch = max(scale, 1.0)
    center = (positions.double() + 0.5) * scale
    first = (center - 2.0 * stretch + 0.5).long().clamp_min(0)
    end = (center + 2.0 * stretch + 0.5).long().clamp_max(source)
    rows = first[:, None] + torch.arange(2 * math.ceil(2.0 * stretch) + 1, device=first.device)
    inside = rows < end[:, None]
    values = _cubic((rows.double() - center[:, None] + 0.5) * (1.0 / stretch))
    values = torch.where(inside, values, 0.0)
    # Summed tap after tap, as Pillow does: another order rounds differently.
    shares = values / values.cumsum(dim=1)[:, -1:]
    scaled = shares * (1 << _WEIGHT_BITS)
    weights = torch.where(shares < 0, scaled - 0.5, scaled + 0.5).long()
    return rows.clamp_max(source - 1), torch.where(inside, weights, 0)


def _cubic(x: Tensor) -> Tensor:
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return torch.where(x < 1.0, near, torch.where(x < 2.0, far, 0.0))
