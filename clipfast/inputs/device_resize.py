"""Pillow's resize and crop for tensors that live on an accelerator: the same bits, without a copy to the host.

Both passes are matrix products with the fixed-point weights. Products of 8-bit pixels and 23-bit weights, and sums of
them, are integers below 2^53, so float64 holds them exactly and any order of additions gives Pillow's bits.
"""

from __future__ import annotations

import torch

from clipfast.config import Interpolation
from clipfast.inputs.geometry import ResizePlan
from clipfast.inputs.resample import needed_box, weight_matrix

# Source samples held as float64 at once: 128 MiB, and about as much again for what comes out of a pass.
_SAMPLES_AT_ONCE = 1 << 24


def resize_crop_tensor(
    images: torch.Tensor, plan: ResizePlan, interpolation: Interpolation
) -> torch.Tensor:
    """Resize and crop images of one size on their device.

    Args:
        images: (N, H, W, 3) uint8, any strides.
    Returns: (N, 3, R, R) uint8, contiguous.
    """
    left, top, right, bottom = needed_box(plan, interpolation)
    passes = []
    for axis, vertical, start, end in (
        (plan.horizontal, False, left, right),
        (plan.vertical, True, top, bottom),
    ):
        if axis.changes:
            matrix = torch.from_numpy(weight_matrix(axis, interpolation, start, end - start))
            passes.append((matrix.to(images.device), vertical))
    if plan.vertical_first:
        passes.reverse()
    size = (plan.vertical.length, plan.horizontal.length)
    out = images.new_empty(len(images), 3, *size)
    step = max(1, _SAMPLES_AT_ONCE // (3 * (bottom - top) * (right - left)))
    for at in range(0, len(images), step):
        pixels = images[at : at + step, top:bottom, left:right].permute(0, 3, 1, 2)
        for matrix, vertical in passes:
            samples = pixels.to(torch.float64)
            sums = matrix @ samples if vertical else samples @ matrix.T
            pixels = torch.floor((sums + (1 << 21)) / (1 << 22)).clamp_(0, 255)
        out[at : at + step] = pixels
    return out
