"""The resize of csrc/cuda on the checking machine, called as the contract of operations is."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch

from tests.cuda.host_library import Change, address, call, load


def resize_crop(
    images: Sequence[torch.Tensor],
    size: int,
    *,
    shared_limit: int = 101_376,
    reversed_warps: bool = False,
    changes: tuple[Change, ...] = (),
) -> torch.Tensor:
    described = [[x.data_ptr(), x.shape[0], x.shape[1], x.stride(0)] for x in images]
    table = torch.tensor(described, dtype=torch.int64).reshape(-1, 4)
    out = torch.full((len(images), 3, size, size), 77, dtype=torch.uint8)
    band = ctypes.c_int()
    call(
        *(load("resize", changes), "resize_crop", address(table), len(images), size, shared_limit),
        *(address(out), int(reversed_warps), ctypes.byref(band)),
    )
    return out


def side_taps(side: int, other: int, size: int) -> list[tuple[int, list[int]]]:
    """First source pixel and weights of each output of the axis with `side` pixels."""
    library = load("resize")
    stride = library.side_taps(ctypes.c_int64(side), ctypes.c_int64(other), size, None)
    table = torch.zeros(size, stride, dtype=torch.int32)
    library.side_taps(ctypes.c_int64(side), ctypes.c_int64(other), size, address(table))
    return [(row[0], row[2 : 2 + row[1]]) for row in table.tolist()]
