"""Linear layers of so few rows that their tiles leave most of the device idle: the depth is divided as well.

    partial[s] = x[:, depth of s] @ weight[:, depth of s]^T;   y, copy, sums of linear.py from scale * sum_s partial[s]

x: (M, K), weight: (N, K), fp16 | bf16; partial: (splits, M, N) fp32. One image is 50 rows: c_proj of B/32 has 12 tiles
of 64 x 64 for 132 multiprocessors, each 48 blocks deep; in 8 parts it is 96 programs, 6 deep. The second kernel has one
program a row, adds the parts in their order and does the epilogue: 4 (splits + 3) M N bytes, mostly out of L2.
MMA and loads: as linear.py. Bound by latency: a launch more, against (1 - 1 / splits) of a tile's time.
Source: Osama et al. 2023, arXiv:2301.03598, section 3 (fixed split), with a second kernel in place of atomics.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from clipfast.kernels.activations import activate
from clipfast.kernels.configs import Split, row_warps
from clipfast.kernels.dependent_launch import dependent_launch, wait_for_previous
from clipfast.kernels.hardware import Hardware
from clipfast.kernels.operands import LinearOperands, described, has_aligned_rows, row_stride


# One kernel for every M: no access is wider where it is a multiple of 16.
@triton.jit(do_not_specialize=["M"])
def _partial_kernel(
    partial, x, weight, stride_x, stride_weight, M, N, K, depth,
    DESCRIPTORS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    wait_for_previous(PDL)
    tiles_m = tl.cdiv(M, BLOCK_M)
    row = tl.program_id(0) % tiles_m * BLOCK_M
    column = tl.program_id(0) // tiles_m * BLOCK_N
    first = tl.program_id(1) * depth
    last = tl.minimum(first + depth, K)
    rows = row + tl.arange(0, BLOCK_M)
    columns = column + tl.arange(0, BLOCK_N)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    if DESCRIPTORS:
        for k in range(first, last, BLOCK_K):
            a = x.load([row, k])
            b = weight.load([column, k])
            acc = tl.dot(a, b.T, acc)
    else:
        inner = tl.arange(0, BLOCK_K)
        x_ptrs = x + rows[:, None] * stride_x + inner[None, :]
        weight_ptrs = weight + columns[:, None] * stride_weight + inner[None, :]
        for k in range(first, last, BLOCK_K):
            real = (inner < K - k)[None, :]
            a = tl.load(x_ptrs + k, mask=(rows < M)[:, None] & real, other=0.0)
            b = tl.load(weight_ptrs + k, mask=(columns < N)[:, None] & real, other=0.0)
            acc = tl.dot(a, b.T, acc)
    inside = (rows < M)[:, None] & (columns < N)[None, :]
    places = (tl.program_id(1) * M + rows)[:, None] * N + columns[None, :]
    tl.store(partial + places, acc, mask=inside)


@triton.jit(do_not_specialize=["M"])
def _sum_kernel(
    y_ptr, copy_ptr, sums_ptr, partial, bias_ptr, residual_ptr, row_sums_ptr,
    stride_y, stride_residual, parts, eps, M, N, K,
    SPLITS: tl.constexpr, ACTIVATION: tl.constexpr, PARTS: tl.constexpr, BLOCK_N: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    wait_for_previous(PDL)
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK_N)
    inside = columns < N
    acc = tl.zeros((BLOCK_N,), dtype=tl.float32)
    for split in tl.static_range(SPLITS):
        acc += tl.load(partial + (split * M + row) * N + columns, mask=inside, other=0.0)
    if row_sums_ptr is not None:
        part = tl.arange(0, PARTS)
        sums = row_sums_ptr + row * (2 * parts) + part
        mean = tl.sum(tl.load(sums, mask=part < parts, other=0.0)) / K
        square = tl.sum(tl.load(sums + parts, mask=part < parts, other=0.0)) / K
        acc *= tl.rsqrt(tl.maximum(square - mean * mean, 0.0) + eps)
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    acc = activate(acc, ACTIVATION)
    if residual_ptr is not None:
        acc += tl.load(residual_ptr + row * stride_residual + columns, mask=inside, other=0.0).to(
            tl.float32
        )
    tl.store(y_ptr + row * stride_y + columns, acc.to(y_ptr.dtype.element_ty), mask=inside)
    if copy_ptr is not None:
        tl.store(copy_ptr + row * N + columns, acc.to(copy_ptr.dtype.element_ty), mask=inside)
    if sums_ptr is not None:
        acc = tl.where(inside, acc, 0.0)
        tl.store(sums_ptr + 2 * row, tl.sum(acc, axis=0))
        tl.store(sums_ptr + 2 * row + 1, tl.sum(acc * acc, axis=0))


def launch_split(split: Split, hardware: Hardware, o: LinearOperands) -> None:
    """`linear`; a row's sums have one part."""
    tile = split.tile
    (rows, depth), columns = o.x.shape, o.weight.shape[0]
    partial = torch.empty(split.parts, rows, columns, dtype=torch.float32, device=o.x.device)
    matrices: tuple[Any, ...] = (o.x, o.weight)
    strides = map(row_stride, matrices)
    descriptors = hardware.has_descriptors and all(map(has_aligned_rows, matrices))
    if descriptors:
        matrices = described(o.x, (tile.m, tile.k)), described(o.weight, (tile.n, tile.k))
    pdl = dependent_launch(hardware, o.x.device)
    tiles = triton.cdiv(rows, tile.m) * triton.cdiv(columns, tile.n)
    _partial_kernel[(tiles, split.parts)](
        partial, *matrices, *strides, rows, columns, depth,
        triton.cdiv(triton.cdiv(depth, tile.k), split.parts) * tile.k,
        DESCRIPTORS=descriptors, BLOCK_M=tile.m, BLOCK_N=tile.n, BLOCK_K=tile.k,
        num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=True, **pdl,
    )  # fmt: skip
    parts = 0 if o.row_sums is None else o.row_sums.shape[1] // 2
    block = triton.next_power_of_2(columns)
    _sum_kernel[(rows,)](
        o.y, o.copy, o.sums, partial, o.bias, o.residual, o.row_sums,
        row_stride(o.y), row_stride(o.residual), parts, o.eps, rows, columns, depth,
        SPLITS=split.parts, ACTIVATION=o.activation,
        PARTS=triton.next_power_of_2(max(1, parts)), BLOCK_N=block,
        num_warps=max(4, row_warps(block)), enable_fp_fusion=True, **pdl,
    )  # fmt: skip
