"""Similarity and top-k of csrc/cuda on the checking machine, called as the contract of operations is."""

from __future__ import annotations

import ctypes

import torch

from tests.cuda.host_library import Change, address, call, load


def _shape(queries: torch.Tensor, gallery: torch.Tensor, multiprocessors: int) -> torch.Tensor:
    sizes = [len(queries), *gallery.shape, queries.stride(0), gallery.stride(0), multiprocessors]
    return torch.tensor(sizes, dtype=torch.int32)


def _kinds(queries: torch.Tensor, gallery: torch.Tensor) -> tuple[int, int]:
    return int(queries.dtype == torch.bfloat16), int(gallery.dtype == torch.int8)


def top_k(
    queries: torch.Tensor,
    gallery: torch.Tensor,
    k: int,
    *,
    multiprocessors: int = 2,
    reversed_warps: bool = False,
    changes: tuple[Change, ...] = (),
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Scores, indices, and the number of slices that the gallery was divided into."""
    scores = torch.full((len(queries), k), torch.nan)
    indices = torch.full((len(queries), k), -1, dtype=torch.int64)
    slices = torch.zeros(1, dtype=torch.int32)
    shape = _shape(queries, gallery, multiprocessors)
    call(
        *(load("cosine", changes), "top_k", address(queries), address(gallery), address(scores)),
        *(address(indices), address(shape), k, *_kinds(queries, gallery), int(reversed_warps)),
        address(slices),
    )
    return scores, indices, int(slices)


def similarity(
    queries: torch.Tensor,
    keys: torch.Tensor,
    scale: float,
    *,
    multiprocessors: int = 2,
    reversed_warps: bool = False,
    changes: tuple[Change, ...] = (),
) -> torch.Tensor:
    out = torch.full((len(queries), len(keys)), torch.nan)
    shape = _shape(queries, keys, multiprocessors)
    call(
        *(load("cosine", changes), "similarity", address(queries), address(keys), address(out)),
        *(address(shape), ctypes.c_float(scale), *_kinds(queries, keys), int(reversed_warps)),
    )
    return out
