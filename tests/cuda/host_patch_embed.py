"""The patch embedding of csrc/cuda on the checking machine, called as the contract of operations is."""

from __future__ import annotations

import torch

from tests.cuda.host_library import Change, address, call, load


def patch_embed(
    pixels: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    class_row: torch.Tensor,
    positions: torch.Tensor,
    *,
    reversed_warps: bool = False,
    changes: tuple[Change, ...] = (),
) -> torch.Tensor:
    width, depth = weight.shape
    patch = round((depth / 3) ** 0.5)
    grid = pixels.shape[2] // patch
    sizes = [len(pixels), grid, patch, width, *pixels.stride()[:3], weight.stride(0)]
    shape = torch.tensor(sizes, dtype=torch.int32)
    out = torch.full((len(pixels), grid * grid + 1, width), torch.nan, dtype=weight.dtype)
    wide = [x is not None and x.dtype == torch.float32 for x in (bias, class_row, positions)]
    call(
        *(load("patch_embed", changes), "patch_embed", address(pixels), address(weight)),
        *(address(bias), address(class_row), address(positions), address(out), address(shape)),
        *(sum(bit << i for i, bit in enumerate(wide)), int(weight.dtype == torch.bfloat16)),
        int(reversed_warps),
    )
    return out
