"""Linear layers with what follows them (bias, activation, residual), and the LayerNorm between two of them.

    y = activation(scale * (x @ weight^T) + bias) + residual;   copy = y in the next product's dtype
    sums[m, tile], sums[m, tiles + tile] = sum over a tile's columns of y, of y^2
    scale = 1, or rsqrt(E[x^2] - E[x]^2 + eps) from the producer's sums: LayerNorm, where rows of weight have no mean

x: (M, K), weight: (N, K), fp16 | bf16 | fp32; residual, y: (M, N), also wider; rows of any stride, last stride 1.
A LayerNorm kernel reads the stream again, 4 M D bytes, and is a launch; here the sums cost 8 M bytes a tile of columns.
Accumulator fp32. Persistent: one program a multiprocessor walks tiles in bands, next loads under this epilogue (TMA).
MMA: wgmma on 90, tcgen05 on 100, mma.sync on 80, 89, 120; fp32 on CUDA cores. Loads: TMA from 90 on (16-byte cp.async
where a stride forbids it), 16-byte cp.async before. Bound by the tensor cores at 2 M N K operations, from K = 1024 on.
Source: Vaswani et al. 2017, arXiv:1706.03762; QuickGELU: github.com/openai/CLIP, MIT, clip/model.py.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from clipfast.errors import ConfigurationError
from clipfast.kernels.activations import ACTIVATIONS, activate, compiled_activation
from clipfast.kernels.configs import GROUP_M, Tile, linear_split, linear_tile
from clipfast.kernels.dependent_launch import dependent_launch, wait_for_previous
from clipfast.kernels.hardware import Hardware, hardware_of
from clipfast.kernels.linear_split import launch_split
from clipfast.kernels.operands import (
    LinearOperands,
    check_matrix,
    check_vector,
    described,
    flat_output,
    has_aligned_rows,
    row_stride,
    unsupported_dtype,
)


@triton.jit
def tile_position(tile, tiles_m, tiles_n, GROUP_M: tl.constexpr):
    """Bands of GROUP_M tile rows, column by column, so that a band's weights stay in L2."""
    band = tile // (GROUP_M * tiles_n)
    height = tl.minimum(tiles_m - band * GROUP_M, GROUP_M)
    within = tile % (GROUP_M * tiles_n)
    return band * GROUP_M + within % height, within // height


@triton.jit
def finish(
    acc, y, copy, residual, bias_ptr, stride_y, stride_residual, M, N, row, column,
    ACTIVATION: tl.constexpr, DESCRIPTORS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SLICE_N: tl.constexpr, scale=None,
):  # fmt: skip
    """Stores the tile's outputs, SLICE_N columns at a time, and returns its rows' sums and sums of squares.

    scale: of the rows, or None. It meets a slice, not the tile, whose layout it would change (tensor memory's, on 100).
    """
    if BLOCK_N > SLICE_N:
        HALF: tl.constexpr = BLOCK_N // 2
        left, right = acc.reshape(BLOCK_M, 2, HALF).permute(0, 2, 1).split()
        left_sums, left_squares = finish(
            left, y, copy, residual, bias_ptr, stride_y, stride_residual, M, N,
            row, column, ACTIVATION, DESCRIPTORS, BLOCK_M, HALF, SLICE_N, scale,
        )  # fmt: skip
        right_sums, right_squares = finish(
            right, y, copy, residual, bias_ptr, stride_y, stride_residual, M, N,
            row, column + HALF, ACTIVATION, DESCRIPTORS, BLOCK_M, HALF, SLICE_N, scale,
        )  # fmt: skip
        sums, squares = left_sums + right_sums, left_squares + right_squares
    else:
        columns = column + tl.arange(0, BLOCK_N)
        if scale is not None:
            acc *= scale[:, None]
        if bias_ptr is not None:
            acc += tl.load(bias_ptr + columns, mask=columns < N, other=0.0).to(tl.float32)[None, :]
        acc = activate(acc, ACTIVATION)
        if DESCRIPTORS:
            if residual is not None:
                acc += residual.load([row, column]).to(tl.float32)
            y.store([row, column], acc.to(y.dtype))
            if copy is not None:
                copy.store([row, column], acc.to(copy.dtype))
        else:
            rows = row + tl.arange(0, BLOCK_M)
            inside = (rows < M)[:, None] & (columns < N)[None, :]
            rows = rows.to(tl.int64)[:, None]
            if residual is not None:
                acc += tl.load(
                    residual + rows * stride_residual + columns[None, :], mask=inside, other=0.0
                ).to(tl.float32)
            tl.store(
                y + rows * stride_y + columns[None, :], acc.to(y.dtype.element_ty), mask=inside
            )
            if copy is not None:
                narrow = acc.to(copy.dtype.element_ty)
                tl.store(copy + rows * N + columns[None, :], narrow, mask=inside)
        sums, squares = tl.sum(acc, axis=1), tl.sum(acc * acc, axis=1)
    return sums, squares


@triton.jit
def _inverse_deviation(row_sums_ptr, rows, eps, M, K, BLOCK_M: tl.constexpr, PARTS: tl.constexpr):
    """rsqrt(var + eps) of the rows of x, from what its producer's tiles summed.

    Part by part: a block of (rows, parts) would draw the whole accumulator into its own layout.
    """
    row_sums_ptr += rows.to(tl.int64) * (2 * PARTS)
    mean = tl.zeros((BLOCK_M,), tl.float32)
    square = tl.zeros((BLOCK_M,), tl.float32)
    for part in tl.static_range(PARTS):
        mean += tl.load(row_sums_ptr + part, mask=rows < M, other=0.0)
        square += tl.load(row_sums_ptr + (PARTS + part), mask=rows < M, other=0.0)
    mean /= K
    return tl.rsqrt(tl.maximum(square / K - mean * mean, 0.0) + eps)


# One kernel for every M: no access is wider where it is a multiple of 16.
@triton.jit(do_not_specialize=["M"])
def _linear_kernel(
    y, copy, sums_ptr, x, weight, bias_ptr, residual, row_sums_ptr,
    stride_y, stride_x, stride_weight, stride_residual, eps, M, N, K,
    ACTIVATION: tl.constexpr, DESCRIPTORS: tl.constexpr, PARTS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    SLICE_N: tl.constexpr, GROUP_M: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    wait_for_previous(PDL)
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    for tile in tl.range(
        tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=DESCRIPTORS
    ):
        tile_m, tile_n = tile_position(tile, tiles_m, tiles_n, GROUP_M)
        row = tile_m * BLOCK_M
        column = tile_n * BLOCK_N
        rows = row + tl.arange(0, BLOCK_M)
        acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        if DESCRIPTORS:
            for k in range(0, K, BLOCK_K):
                a = x.load([row, k])
                b = weight.load([column, k])
                acc = tl.dot(a, b.T, acc, input_precision="ieee")
        else:
            columns = column + tl.arange(0, BLOCK_N)
            inner = tl.arange(0, BLOCK_K)
            x_ptrs = x + rows.to(tl.int64)[:, None] * stride_x + inner[None, :]
            weight_ptrs = weight + columns.to(tl.int64)[:, None] * stride_weight + inner[None, :]
            for k in range(0, K, BLOCK_K):
                real = (inner < K - k)[None, :]
                a = tl.load(x_ptrs + k, mask=(rows < M)[:, None] & real, other=0.0)
                b = tl.load(weight_ptrs + k, mask=(columns < N)[:, None] & real, other=0.0)
                acc = tl.dot(a, b.T, acc, input_precision="ieee")

        scale = None
        if row_sums_ptr is not None:
            scale = _inverse_deviation(row_sums_ptr, rows, eps, M, K, BLOCK_M, PARTS)
        sums, squares = finish(
            acc, y, copy, residual, bias_ptr, stride_y, stride_residual, M, N,
            row, column, ACTIVATION, DESCRIPTORS, BLOCK_M, BLOCK_N, SLICE_N, scale,
        )  # fmt: skip
        if sums_ptr is not None:
            sums_ptrs = sums_ptr + rows.to(tl.int64) * (2 * tiles_n) + tile_n
            tl.store(sums_ptrs, sums, mask=rows < M)
            tl.store(sums_ptrs + tiles_n, squares, mask=rows < M)


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    activation: str | None = None,
    residual: torch.Tensor | None = None,
    row_sums: torch.Tensor | None = None,
    eps: float = 0.0,
    copy: torch.Tensor | None = None,
    return_sums: bool = False,
    out: torch.Tensor | None = None,
    hardware: Hardware | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """y = activation(scale * (x @ weight^T) + bias) + residual, and the sums of y's rows by tile, and of their squares.

    Args:
        x: (M, K). weight: (N, K), same dtype. bias: (N,) or None.
        activation: one of ACTIVATIONS; "gelu" is that of erf, "quick_gelu" is y * sigmoid(1.702 y).
        residual: (M, N) or None; y has its dtype, else x's.
        row_sums: (M, 2P) float32 or None: what the producer of x returned. x is then layer-normalised on the way in
            (without scale and shift), provided that the rows of weight have no mean. x may be the producer's copy.
        copy: (M, N) contiguous or None: where y goes in another dtype, beside itself.
        out: where y goes, a fresh tensor when None. hardware: whose tiles to use, the device's when None.
    Returns: y (M, N), float32 accumulation; with return_sums also (M, 2P') float32, in a fixed order, no atomics.
    Raises:
        ConfigurationError: a shape, stride, dtype or activation is not as written above.

    Equivalent to:
        y = activation(layer_norm(x, (K,), eps=eps) @ weight.T + bias) + residual
    """
    rows, depth = check_matrix("x", x)
    columns, _ = check_matrix("weight", weight, (None, depth))
    check_vector("bias", bias, columns)
    check_matrix("residual", residual, (rows, columns))
    check_matrix("copy", copy, (rows, columns))
    parts = check_matrix("row_sums", row_sums, (rows, None))[1]
    if parts % 2:
        raise ConfigurationError(f"row_sums has {parts} columns; expected an even number")
    for name, matrix in (("copy", copy), ("row_sums", row_sums)):
        if matrix is not None and not matrix.is_contiguous():
            raise ConfigurationError(
                f"{name} has strides {matrix.stride()}; expected contiguous rows"
            )
    if weight.dtype != x.dtype:
        raise ConfigurationError(f"weight has dtype {weight.dtype}; expected x's, {x.dtype}")
    if activation not in ACTIVATIONS:
        raise ConfigurationError(f"activation={activation!r}; expected one of {ACTIVATIONS}")
    y = flat_output(out, x, (rows, columns), x.dtype if residual is None else residual.dtype)
    hardware = hardware or hardware_of(x.device)
    bits = x.dtype.itemsize * 8
    tile = linear_tile(bits, rows, columns, depth, hardware)
    split = linear_split(bits, rows, columns, depth, hardware)
    parts = triton.cdiv(columns, tile.n) if split is None else 1
    sums = x.new_empty(rows, 2 * parts, dtype=torch.float32) if return_sums else None
    if rows and columns:
        operands = LinearOperands(
            y, copy, sums, x, weight, bias, residual, row_sums, activation, eps
        )
        if split is None:
            _launch(tile, hardware, operands)
        else:
            launch_split(split, hardware, operands)
    return y, sums


def _launch(tile: Tile, hardware: Hardware, o: LinearOperands) -> None:
    (rows, depth), columns = o.x.shape, o.weight.shape[0]
    programs = min(
        hardware.multiprocessors, triton.cdiv(rows, tile.m) * triton.cdiv(columns, tile.n)
    )
    slice_n = tile.slice_n if o.copy is None else tile.copy_slice_n
    stages = tile.stages + (tile.more_stages if o.residual is None else 0)
    matrices: tuple[Any, ...] = (o.y, o.copy, o.x, o.weight, o.residual)
    strides = map(row_stride, (o.y, o.x, o.weight, o.residual))
    descriptors = (
        hardware.has_descriptors
        and o.x.dtype.itemsize == 2
        and all(has_aligned_rows(matrix) for matrix in matrices)
    )
    if descriptors:
        out_block, x_block, weight_block = (
            (tile.m, slice_n),
            (tile.m, tile.k),
            (tile.n, tile.k),
        )
        blocks = (out_block, out_block, x_block, weight_block, out_block)
        matrices = tuple(map(described, matrices, blocks))
    y_tiles, copy_tiles, x_tiles, weight_tiles, residual_tiles = matrices
    _linear_kernel[(programs,)](
        y_tiles, copy_tiles, o.sums, x_tiles, weight_tiles, o.bias, residual_tiles, o.row_sums,
        *strides, o.eps, rows, columns, depth,
        ACTIVATION=compiled_activation(o.activation, o.x.dtype), DESCRIPTORS=descriptors,
        PARTS=0 if o.row_sums is None else o.row_sums.shape[1] // 2,
        BLOCK_M=tile.m, BLOCK_N=tile.n, BLOCK_K=tile.k, SLICE_N=slice_n, GROUP_M=GROUP_M,
        num_warps=tile.warps, num_stages=stages, enable_fp_fusion=True,
        **dependent_launch(hardware, o.x.device),
    )  # fmt: skip


def unsupported_reason(dtype: torch.dtype, architecture: int) -> str | None:
    """None when linear serves this dtype on this architecture, else the sentence why not."""
    return unsupported_dtype(dtype, architecture)
