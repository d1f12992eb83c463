"""Softmax of scaled cosines over a gallery, and their log-sum-exp over rows and columns, in one pass.

    logits = scale * cosine(queries, keys);  p = softmax over keys of logits
    rows = log sum over keys of exp(logits);  columns = log sum over queries of exp(logits)

queries: (M, E), keys: (N, E), fp16 | bf16 | fp32; logits, p, rows, columns in fp32.
One program = BLOCK_M queries and a slice of the gallery with a running (peak, total); slices are merged in fixed order.
Peaks are cosines (negated when the scale is negative): the scale multiplies differences, not roundings.
log_sum_exp never writes scores: columns go through partials, one row of N a tile, COLUMN_TILES tiles of queries at a
time. similarity writes its scores where p belongs.
Bound by reading the gallery: bytes = N E itemsize for every BLOCK_M queries. MMA and loads: see cosines.py.
Source: Radford et al. 2021, arXiv:2103.00020, figure 3; Milakov and Gimelshein 2018, arXiv:1805.02867.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from clipfast.kernels.configs import SCAN, SOFTMAX_KEYS, SOFTMAX_WARPS
from clipfast.kernels.cosines import check_pair, cosine_block, inverse_norms, slices_of
from clipfast.kernels.hardware import Hardware, hardware_of
from clipfast.kernels.operands import flat_output, row_stride, unsupported_dtype

LOG2_E = tl.constexpr(1.4426950408889634)
# Rows of partial sums over columns at a time: 256 bytes a key, whatever the number of queries.
COLUMN_TILES = 64
BELOW_ALL = tl.constexpr(
    -4.0
)  # below every cosine, and finite: with a scale of 0 an infinity would give NaN


@triton.jit
def _scan_kernel(
    scores_ptr, peaks_ptr, totals_ptr, columns_ptr, queries_ptr, keys_ptr,
    stride_scores, stride_queries, stride_keys, scale, slice_keys, M, N, E,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    slices = tl.num_programs(1)
    row = tl.program_id(0).to(tl.int64) * BLOCK_M
    column = tl.program_id(1).to(tl.int64) * slice_keys
    queries_ptr += row * stride_queries
    keys_ptr += column * stride_keys
    peaks_ptr += row * slices + tl.program_id(1)
    totals_ptr += row * slices + tl.program_id(1)
    if scores_ptr is not None:
        scores_ptr += row * stride_scores + column
    if columns_ptr is not None:
        columns_ptr += tl.program_id(0).to(tl.int64) * N + column
    M = (M - row).to(tl.int32)
    N = tl.minimum(N - column, slice_keys).to(tl.int32)
    rows = tl.arange(0, BLOCK_M)

    norms = inverse_norms(queries_ptr, stride_queries, M, E, BLOCK_M, BLOCK_E)
    q_scale = tl.where(scale < 0.0, -norms, norms)
    sharpness = tl.abs(scale) * LOG2_E
    peak = tl.full((BLOCK_M,), BELOW_ALL, tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    for key in tl.range(0, N, BLOCK_N):
        scores = cosine_block(
            queries_ptr, keys_ptr + tl.cast(key, tl.int64) * stride_keys, q_scale,
            stride_queries, stride_keys, M, N - key, E, BLOCK_M, BLOCK_N, BLOCK_E,
        )  # fmt: skip
        columns = key + tl.arange(0, BLOCK_N)
        inside = (rows < M)[:, None] & (columns < N)[None, :]
        if scores_ptr is not None:
            offsets = rows.to(tl.int64)[:, None] * stride_scores + columns[None, :]
            tl.store(scores_ptr + offsets, scores, mask=inside)
        if columns_ptr is not None:
            # Columns past N read zeros and are not stored; rows past M must not be summed.
            top = tl.max(tl.where((rows < M)[:, None], scores, BELOW_ALL), axis=0)
            weights = tl.exp2((scores - top[None, :]) * sharpness)
            sums = tl.sum(tl.where((rows < M)[:, None], weights, 0.0), axis=0)
            log_sums = top * tl.abs(scale) + tl.log2(sums) / LOG2_E
            tl.store(columns_ptr + columns, log_sums, mask=columns < N)
        real = tl.where((columns < N)[None, :], scores, BELOW_ALL)
        new_peak = tl.maximum(peak, tl.max(real, axis=1))
        weights = tl.exp2((real - new_peak[:, None]) * sharpness)
        total = total * tl.exp2((peak - new_peak) * sharpness)
        total += tl.sum(tl.where((columns < N)[None, :], weights, 0.0), axis=1)
        peak = new_peak
    tl.store(peaks_ptr + rows * slices, peak, mask=rows < M)
    tl.store(totals_ptr + rows * slices, total, mask=rows < M)


@triton.jit
def _softmax_kernel(
    p_ptr, peaks_ptr, totals_ptr, stride_p, scale, slices, N,
    SLICES: tl.constexpr, BLOCK_N: tl.constexpr, GRAIN: tl.constexpr,
):  # fmt: skip
    """The softmax of one row's block of scores, in place, from the peaks and totals of all slices.

    stride_p and N are counted in GRAIN elements, so that the compiler knows how wide an access may be."""
    stride_p *= GRAIN
    N *= GRAIN
    sharpness = tl.abs(scale) * LOG2_E
    blocks = tl.cdiv(N, BLOCK_N)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    index = tl.arange(0, SLICES)
    peaks = tl.load(peaks_ptr + row * slices + index, mask=index < slices, other=BELOW_ALL)
    totals = tl.load(totals_ptr + row * slices + index, mask=index < slices, other=0.0)
    peak = tl.max(peaks, axis=0)
    total = tl.sum(totals * tl.exp2((peaks - peak) * sharpness), axis=0)
    columns = tl.program_id(0) % blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    p_ptr += row * stride_p
    scores = tl.load(p_ptr + columns, mask=columns < N, other=BELOW_ALL)
    p = tl.exp2((scores - peak) * sharpness) / total
    tl.store(p_ptr + columns, p, mask=columns < N)


def similarity(
    queries: torch.Tensor,
    keys: torch.Tensor,
    scale: float,
    *,
    out: torch.Tensor | None = None,
    hardware: Hardware | None = None,
) -> torch.Tensor:
    """p = softmax over keys of scale * cosine(query, key).

    Args:
        queries: (M, E). keys: (N, E), same dtype. Their rows need not be normalised.
        scale: e.g. 100.0. out: (M, N) float32, a fresh tensor when None. hardware: the device's when None.
    Returns: (M, N) float32, rows sum to 1. The only M x N memory is the result.
    Raises:
        ConfigurationError: a shape, stride or dtype is not as written above.

    Equivalent to:
        softmax(scale * normalize(queries) @ normalize(keys).T, dim=-1)
    """
    rows, columns, _ = check_pair(queries, keys)
    p = flat_output(out, queries, (rows, columns), torch.float32)
    if rows and columns:
        peaks, totals = _scan(queries, keys, scale, p, None, hardware)
        slices = peaks.shape[1]
        grain = 4 if columns % 4 == 0 and p.stride(0) % 4 == 0 else 1  # 16 bytes
        _softmax_kernel[(rows * triton.cdiv(columns, SOFTMAX_KEYS),)](
            p, peaks, totals, p.stride(0) // grain, float(scale), slices, columns // grain,
            SLICES=triton.next_power_of_2(slices), BLOCK_N=SOFTMAX_KEYS, GRAIN=grain,
            num_warps=SOFTMAX_WARPS, enable_fp_fusion=True,
        )  # fmt: skip
    return p


def log_sum_exp(
    queries: torch.Tensor, keys: torch.Tensor, scale: float, *, hardware: Hardware | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """log sum exp of scale * cosine(query, key) over keys (rows) and over queries (columns).

    Args:
        queries: (M, E). keys: (N, E), same dtype. scale: e.g. 100.0. hardware: the device's when None.
    Returns: rows (M,), columns (N,), float32; -inf where there is nothing to sum. M x N is never in memory.
    Raises:
        ConfigurationError: a shape, stride or dtype is not as written above.

    Equivalent to:
        logits = scale * normalize(queries) @ normalize(keys).T
        logits.logsumexp(dim=1), logits.logsumexp(dim=0)
    """
    rows, columns, _ = check_pair(queries, keys)
    if not rows or not columns:
        empty = [torch.full((n,), -torch.inf, device=queries.device) for n in (rows, columns)]
        return empty[0], empty[1]
    height = SCAN[queries.dtype.itemsize * 8].m
    of_rows, of_columns = [], []
    for some in queries.split(height * COLUMN_TILES):
        partials = torch.empty(
            triton.cdiv(len(some), height), columns, dtype=torch.float32, device=queries.device
        )
        peaks, totals = _scan(some, keys, scale, None, partials, hardware)
        of_rows.append((peaks * abs(scale) + totals.log()).logsumexp(dim=1))
        of_columns.append(partials.logsumexp(dim=0))
    return torch.cat(of_rows), torch.stack(of_columns).logsumexp(dim=0)


def _scan(
    queries: torch.Tensor,
    keys: torch.Tensor,
    scale: float,
    scores: torch.Tensor | None,
    columns: torch.Tensor | None,
    hardware: Hardware | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One pass over the gallery: peaks and totals (M, slices) of each row, and what else there is a tensor for."""
    (rows, width), count = queries.shape, keys.shape[0]
    tile = SCAN[queries.dtype.itemsize * 8]
    slices, slice_keys = slices_of(rows, count, tile, hardware or hardware_of(queries.device))
    peaks, totals = torch.empty(2, rows, slices, dtype=torch.float32, device=queries.device)
    _scan_kernel[(triton.cdiv(rows, tile.m), slices)](
        scores, peaks, totals, columns, queries, keys,
        row_stride(scores), queries.stride(0), keys.stride(0), float(scale), slice_keys,
        rows, count, width,
        BLOCK_M=tile.m, BLOCK_N=tile.n, BLOCK_E=tile.k,
        num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=True,
    )  # fmt: skip
    return peaks, totals


def unsupported_reason(dtype: torch.dtype, architecture: int) -> str | None:
    """None when similarity and log_sum_exp serve this dtype on this architecture, else the sentence why not."""
    return unsupported_dtype(dtype, architecture)
