"""Pillow's resampling of the cropped region only, in numpy: same bits, memory bounded by what the crop needs.

    out[i] = clip((2^21 + sum_k round(2^22 w[i, k]) * in[first[i] + k]) >> 22, 0, 255)        # 8-bit bands, each pass

Weights are the filter at (k - center + 0.5) / max(scale, 1), normalised in float64, without taps beyond the source.
Bands of 16 bits and more accumulate in float64 instead. Source: Pillow 13's Resample.c (MIT-CMU), from its description.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clipfast.config import Interpolation
from clipfast.inputs.geometry import Axis, ResizePlan

Array = npt.NDArray[Any]
_PRECISION_BITS = 22
_SUPPORT = {"bicubic": 2.0, "bilinear": 1.0}


@dataclass(frozen=True)
class _Taps:
    """first: (length,) first source pixel of each output; counts: (length,); weights: (length, taps) float64."""

    first: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]


def _filter(x: npt.NDArray[np.float64], interpolation: Interpolation) -> npt.NDArray[np.float64]:
    x = np.abs(x)
    if interpolation == "bilinear":
        return np.where(x < 1.0, 1.0 - x, 0.0)
    a = -0.5
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _taps(axis: Axis, interpolation: Interpolation) -> _Taps:
    stretch = max(axis.scale, 1.0)
    support = _SUPPORT[interpolation] * stretch
    centers = axis.begin + (np.arange(axis.start, axis.start + axis.length) + 0.5) * axis.scale
    first = np.maximum(np.trunc(centers - support + 0.5), 0).astype(np.int64)
    end = np.minimum(np.trunc(centers + support + 0.5), axis.source).astype(np.int64)
    counts = end - first
    steps = np.arange(int(counts.max()))
    weights = _filter(
        ((steps + first[:, None]) - centers[:, None] + 0.5) * (1.0 / stretch), interpolation
    )
    weights = np.where(steps < counts[:, None], weights, 0.0)
    totals = np.cumsum(weights, axis=1)[:, -1:]
    weights = np.divide(weights, totals, out=weights, where=totals != 0.0)
    return _Taps(first, counts, weights)


def _fixed_point(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    scaled = weights * (1 << _PRECISION_BITS)
    return np.trunc(scaled + np.where(weights < 0, -0.5, 0.5)).astype(np.int32)


def _apply(pixels: Array, taps: _Taps, origin: int) -> Array:
    """One pass along axis 0 of `pixels`, whose row 0 is source row `origin`. Keeps the dtype."""
    exact_bytes = pixels.dtype == np.uint8
    weights: Array = _fixed_point(taps.weights) if exact_bytes else taps.weights
    accumulator = np.full(
        (len(taps.first), *pixels.shape[1:]),
        1 << (_PRECISION_BITS - 1) if exact_bytes else 0,
        np.int32 if exact_bytes else np.float64,
    )
    last = taps.first + taps.counts - 1 - origin
    for step in range(weights.shape[1]):
        rows = np.minimum(taps.first - origin + step, last)  # weight 0 beyond the last tap
        accumulator += pixels[rows] * weights[:, step].reshape(-1, *[1] * (pixels.ndim - 1))
    if exact_bytes:
        bytes_: Array = np.clip(accumulator >> _PRECISION_BITS, 0, 255).astype(np.uint8)
        return bytes_
    return _round_wide(accumulator, pixels.dtype)


def _round_wide(accumulator: Array, dtype: np.dtype[Any]) -> Array:
    """Float64 sums to float32, or to integers: half away from zero, then clipped."""
    if dtype.kind == "f":
        return accumulator.astype(dtype)
    rounded = np.trunc(accumulator + np.where(accumulator >= 0, 0.5, -0.5))
    limits = np.iinfo(dtype)
    clipped: Array = np.clip(rounded, limits.min, limits.max).astype(dtype)
    return clipped


def needed_box(plan: ResizePlan, interpolation: Interpolation) -> tuple[int, int, int, int]:
    """The source pixels that the crop reads: (left, top, right, bottom)."""
    left, right = _needed(plan.horizontal, interpolation)
    top, bottom = _needed(plan.vertical, interpolation)
    return left, top, right, bottom


def _needed(axis: Axis, interpolation: Interpolation) -> tuple[int, int]:
    if not axis.changes:
        return axis.start, axis.start + axis.length
    taps = _taps(axis, interpolation)
    return int(taps.first[0]), int(taps.first[-1] + taps.counts[-1])


def weight_matrix(
    axis: Axis, interpolation: Interpolation, origin: int, sources: int
) -> npt.NDArray[np.float64]:
    """The fixed-point weights (times 2^22) of one pass as a dense (axis.length, sources) matrix.

    Column k is source pixel origin + k.
    """
    taps = _taps(axis, interpolation)
    weights = _fixed_point(taps.weights)
    matrix = np.zeros((axis.length, sources))
    for output, (first, count) in enumerate(zip(taps.first - origin, taps.counts, strict=True)):
        matrix[output, first : first + count] = weights[output, :count]
    return matrix


def resample_crop(region: Array, plan: ResizePlan, interpolation: Interpolation) -> Array:
    """Both passes over the source pixels inside `needed_box`.

    Args:
        region: (bottom - top, right - left) or (bottom - top, right - left, C), uint8, uint16, int32 or float32.
    Returns: (plan.vertical.length, plan.horizontal.length[, C]) of the same dtype.
    """
    left, top, _, _ = needed_box(plan, interpolation)
    passes = [(plan.horizontal, 1, left), (plan.vertical, 0, top)]
    for axis, along, origin in reversed(passes) if plan.vertical_first else passes:
        if axis.changes:
            pixels = np.moveaxis(region, along, 0)
            region = np.moveaxis(_apply(pixels, _taps(axis, interpolation), origin), 0, along)
    return region
