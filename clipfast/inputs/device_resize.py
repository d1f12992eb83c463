"""Pillow's resize and crop for tensors that live on an accelerator: the same bits, without a copy to the host.

Both passes are matrix products with the fixed-point weights. Products of 8-bit pixels and 23-bit weights, and sums of
them, are integers below 2^53, so float64 holds them exactly and any order of additions gives Pillow's bits.
"""

from __future__ import annotations

import torch

from clipfast.config import Interpolation
from clipfast.inputs.geometry import ResizePlan
from clipfast.inputs.resample import needed_box, weight_matrix


def resize_crop_tensor(
    images: torch.Tensor, plan: ResizePlan, interpolation: Interpolation
) -> torch.Tensor:
    """Resize and crop images of one size on their device.

    Args:
        images: (N, H, W, 3) uint8, any strides.
    Returns: (N, 3, R, R) uint8, contiguous.
    """
    left, top, right, bottom = needed_box(plan, interpolation)
    pixels = images[:, top:bottom, left:right].permute(0, 3, 1, 2).to(torch.float64)
    passes = [(plan.horizontal, False, left), (plan.vertical, True, top)]
    for axis, vertical, origin in reversed(passes) if plan.vertical_first else passes:
        if not axis.changes:
            continue
        weights = torch.from_numpy(
            weight_matrix(axis, interpolation, origin, pixels.shape[2 + (not vertical)])
        )
        weights = weights.to(pixels.device)
        sums = weights @ pixels if vertical else pixels @ weights.T
        pixels = torch.floor((sums + (1 << 21)) / (1 << 22)).clamp_(0, 255)
    return pixels.to(torch.uint8).contiguous()
