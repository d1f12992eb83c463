"""The k largest cosines of each query over a gallery, without the M x N scores.

    scores, indices = top k over keys of cosine(query, key); ties go to the lower index, NaN ranks last

queries: (M, E), gallery: (N, E), fp16 | bf16 | fp32; scores fp32, indices int64.
A score and its index are one 64-bit key, ordered as the result is: high word the score's bits, low 2^31 - 1 - index.
One program = BLOCK_M queries and a slice of the gallery; it keeps the KEPT largest keys in registers and replaces the
smallest while a block has a larger one: after the first blocks almost never. Slices are merged by one torch.topk.
More than MAX_KEPT are found in rounds, each below the last key of the one before.
Bound by reading the gallery: bytes = N E itemsize for every BLOCK_M queries and round. MMA and loads: see cosines.py.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from clipfast.errors import ConfigurationError
from clipfast.kernels.configs import TOP_K
from clipfast.kernels.cosines import check_pair, cosine_block, inverse_norms, slices_of
from clipfast.kernels.hardware import Hardware, hardware_of
from clipfast.kernels.operands import unsupported_dtype

MAX_KEPT = 128
LAST_INDEX = tl.constexpr(0x7FFFFFFF)
LOWEST_KEY = tl.constexpr(-(2**63))
INFINITY_BITS = tl.constexpr(0x7F800000)
# The bits of a negative NaN, ordered: below minus infinity, so that rows of NaN and infinities never match.
NOT_A_NUMBER = tl.constexpr(-0x7FC00001)


@triton.jit
def _top_k_kernel(
    best_ptr, bounds_ptr, queries_ptr, gallery_ptr,
    stride_queries, stride_gallery, slice_keys, M, N, E, KEPT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_M
    first = tl.program_id(1).to(tl.int64) * slice_keys
    queries_ptr += row * stride_queries
    gallery_ptr += first * stride_gallery
    M = (M - row).to(tl.int32)
    N = tl.minimum(N - first, slice_keys).to(tl.int32)
    rows = tl.arange(0, BLOCK_M)
    q_scale = inverse_norms(queries_ptr, stride_queries, M, E, BLOCK_M, BLOCK_E)

    # Distinct, and below every key of a real score.
    slots = tl.arange(0, KEPT)
    best = tl.full((BLOCK_M, KEPT), LOWEST_KEY, tl.int64) + (slots + 1)[None, :]
    for start in tl.range(0, N, BLOCK_N):
        scores = cosine_block(
            queries_ptr, gallery_ptr + tl.cast(start, tl.int64) * stride_gallery, q_scale,
            stride_queries, stride_gallery, M, N - start, E, BLOCK_M, BLOCK_N, BLOCK_E,
        )  # fmt: skip
        bits = tl.where(scores == 0.0, 0.0, scores).to(tl.int32, bitcast=True)
        ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        ordered = tl.where(ordered > INFINITY_BITS, NOT_A_NUMBER, ordered)
        columns = start + tl.arange(0, BLOCK_N)
        low_word = -(first + columns) + LAST_INDEX
        keys = (ordered.to(tl.int64) << 32) | low_word[None, :]
        keys = tl.where((rows < M)[:, None] & (columns < N)[None, :], keys, LOWEST_KEY)
        if bounds_ptr is not None:
            bounds = tl.load(bounds_ptr + row + rows, mask=rows < M, other=LOWEST_KEY)
            keys = tl.where(keys < bounds[:, None], keys, LOWEST_KEY)
        smallest = tl.min(best, axis=1)
        largest = tl.max(keys, axis=1)
        while tl.max((largest > smallest).to(tl.int32), axis=0) > 0:
            replace = (largest > smallest)[:, None] & (best == smallest[:, None])
            best = tl.where(replace, largest[:, None], best)
            keys = tl.where(keys == largest[:, None], LOWEST_KEY, keys)
            smallest = tl.min(best, axis=1)
            largest = tl.max(keys, axis=1)

    slices = tl.num_programs(1)
    best_ptr += (row * slices + tl.program_id(1)) * KEPT
    offsets = rows[:, None] * (slices * KEPT) + slots[None, :]
    tl.store(best_ptr + offsets, best, mask=(rows < M)[:, None])


def top_k(
    queries: torch.Tensor, gallery: torch.Tensor, k: int, *, hardware: Hardware | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest cosines of each query over the gallery; ties go to the lower index, NaN ranks last.

    Args:
        queries: (M, E). gallery: (N, E), same dtype, N < 2^31. Their rows need not be normalised.
        k: 1 to N. hardware: whose tiles to use, the device's when None.
    Returns: scores (M, k) float32 descending, indices (M, k) int64. Memory O(M k).
    Raises:
        ConfigurationError: a shape, stride, dtype or k is not as written above.

    Equivalent to:
        (normalize(queries) @ normalize(gallery).T).sort(dim=1, descending=True, stable=True), first k columns
    """
    _, columns, _ = check_pair(queries, gallery)
    if not 1 <= k <= columns:
        raise ConfigurationError(f"k={k}; expected 1 to {columns}, the size of the gallery")
    hardware = hardware or hardware_of(queries.device)
    found: list[torch.Tensor] = []
    for start in range(0, k, MAX_KEPT):
        bounds = found[-1][:, -1].contiguous() if found else None
        found.append(_round(queries, gallery, min(MAX_KEPT, k - start), bounds, hardware))
    keys = torch.cat(found, dim=1)
    ordered = (keys >> 32).int()
    scores = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
    return scores, LAST_INDEX.value - (keys & 0xFFFFFFFF)


def _round(
    queries: torch.Tensor,
    gallery: torch.Tensor,
    k: int,
    bounds: torch.Tensor | None,
    hardware: Hardware,
) -> torch.Tensor:
    """The k largest keys of each query below its bound: (M, k) int64, descending."""
    (rows, width), columns = queries.shape, gallery.shape[0]
    tile = TOP_K[queries.dtype.itemsize * 8]
    if not rows:
        return torch.empty(0, k, dtype=torch.int64, device=queries.device)
    kept = triton.next_power_of_2(k)
    slices, slice_keys = slices_of(rows, columns, tile, hardware)
    best = torch.empty(rows, slices * kept, dtype=torch.int64, device=queries.device)
    _top_k_kernel[(triton.cdiv(rows, tile.m), slices)](
        best, bounds, queries, gallery,
        queries.stride(0), gallery.stride(0), slice_keys, rows, columns, width, KEPT=kept,
        BLOCK_M=tile.m, BLOCK_N=tile.n, BLOCK_E=tile.k,
        num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=True,
    )  # fmt: skip
    return best.topk(k, dim=1).values


def unsupported_reason(dtype: torch.dtype, architecture: int) -> str | None:
    """None when top_k serves this dtype on this architecture, else the sentence why not."""
    return unsupported_dtype(dtype, architecture)
