"""Linear layers of 8-bit numbers: rows quantised on the way in, by their producer, and on the way out, for the next.

    y = activation(x_scale * weight_scale * (x @ weight^T) + bias) + residual
    quantised: y_scale[m, g] = max |y[m, 128 g : 128 (g + 1)]| / limit;  stored y = round(y / y_scale)

x: (M, K), weight: (N, K), both fp8 e4m3 (limit 448) or both int8 (127); x_scale: (M, 1) or (M, ceil(K / 128)),
weight_scale: (N,), float32; residual, y: (M, N) fp16 | bf16 | fp32, or y 8-bit with y_scale (M, ceil(N / 128)).
Accumulator: int32 for int8 with one scale a row, the tensor cores' own for fp8 with one scale a row (of which 89 and 90
keep some 13 bits, which costs no cosine: tests/kernels/test_fp8_accumulation.py); else fp32, to which sums of at most
128 products are promoted, while the tensor cores wait. Persistent, as linear.
Row scales come from layer_norm, scales of 128 columns from the product before (the activation after c_fc).
MMA: wgmma on 90, tcgen05 on 100 for fp8, else mma.sync (fp8: from 89). Loads: TMA from 90 on, 16-byte cp.async before.
Bound by the tensor cores at 2 M N K operations. Source: Micikevicius et al. 2022, arXiv:2209.05433.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from clipfast.errors import ConfigurationError
from clipfast.kernels.activations import ACTIVATIONS, activate, compiled_activation
from clipfast.kernels.configs import GROUP_M, Tile, linear_8bit_tile
from clipfast.kernels.dependent_launch import dependent_launch, wait_for_previous
from clipfast.kernels.hardware import Hardware, hardware_of
from clipfast.kernels.layer_norm import QUANTISED_LIMIT
from clipfast.kernels.linear import finish, tile_position
from clipfast.kernels.operands import (
    check_matrix,
    check_vector,
    described,
    flat_output,
    has_aligned_rows,
    row_stride,
)

FP8, INT8 = QUANTISED_LIMIT
GROUP = 128
_GROUP = tl.constexpr(GROUP)


@triton.jit
def _finish_quantised(
    acc, y, y_scale_ptr, bias_ptr, stride_y, M, N, row, column,
    ACTIVATION: tl.constexpr, DESCRIPTORS: tl.constexpr, LIMIT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Stores the tile's outputs, a group of columns at a time, each row of it with its own scale."""
    if BLOCK_N > _GROUP:
        HALF: tl.constexpr = BLOCK_N // 2
        left, right = acc.reshape(BLOCK_M, 2, HALF).permute(0, 2, 1).split()
        _finish_quantised(
            left, y, y_scale_ptr, bias_ptr, stride_y, M, N, row, column,
            ACTIVATION, DESCRIPTORS, LIMIT, BLOCK_M, HALF,
        )  # fmt: skip
        _finish_quantised(
            right, y, y_scale_ptr, bias_ptr, stride_y, M, N, row, column + HALF,
            ACTIVATION, DESCRIPTORS, LIMIT, BLOCK_M, HALF,
        )  # fmt: skip
    else:
        rows = row + tl.arange(0, BLOCK_M)
        columns = column + tl.arange(0, BLOCK_N)
        if bias_ptr is not None:
            acc += tl.load(bias_ptr + columns, mask=columns < N, other=0.0).to(tl.float32)[None, :]
        acc = activate(acc, ACTIVATION)
        largest = tl.max(tl.abs(acc), axis=1)
        scale = tl.where(largest > 0.0, largest / LIMIT, 1.0)
        groups = tl.cdiv(N, _GROUP)
        real = rows < tl.where(column < N, M, 0)
        tl.store(y_scale_ptr + rows.to(tl.int64) * groups + column // _GROUP, scale, mask=real)
        acc *= (LIMIT / tl.maximum(largest, 1e-30))[:, None]
        if LIMIT == 127.0:
            acc = tl.floor(acc + 0.5)
        if DESCRIPTORS:
            y.store([row, column], acc.to(y.dtype))
        else:
            inside = (rows < M)[:, None] & (columns < N)[None, :]
            offsets = rows.to(tl.int64)[:, None] * stride_y + columns[None, :]
            tl.store(y + offsets, acc.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _linear_8bit_kernel(
    y, y_scale_ptr, x, weight, x_scale_ptr, weight_scale_ptr, bias_ptr, residual,
    stride_y, stride_x, stride_weight, stride_residual, groups, M, N, K,
    ACTIVATION: tl.constexpr, DESCRIPTORS: tl.constexpr, GROUPED: tl.constexpr, LIMIT: tl.constexpr,
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
        columns = column + tl.arange(0, BLOCK_N)
        inner = tl.arange(0, BLOCK_K)
        if not DESCRIPTORS:
            x_ptrs = x + rows.to(tl.int64)[:, None] * stride_x + inner[None, :]
            weight_ptrs = weight + columns.to(tl.int64)[:, None] * stride_weight + inner[None, :]
        scales_ptr = x_scale_ptr + rows.to(tl.int64) * groups
        IN_INT32: tl.constexpr = LIMIT == 127.0 and not GROUPED
        sums = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int32 if IN_INT32 else tl.float32)
        for k in range(0, K, BLOCK_K):
            if DESCRIPTORS:
                a = x.load([row, k])
                b = weight.load([column, k])
            else:
                real = (inner < K - k)[None, :]
                a = tl.load(x_ptrs + k, mask=(rows < M)[:, None] & real, other=0.0)
                b = tl.load(weight_ptrs + k, mask=(columns < N)[:, None] & real, other=0.0)
            if IN_INT32:
                sums = tl.dot(a, b.T, sums, out_dtype=tl.int32)
            elif not GROUPED:
                sums = tl.dot(a, b.T, sums)
            else:
                # The limit also keeps the compiler from adding into the tensor cores' own accumulator.
                product = tl.dot(a, b.T, max_num_imprecise_acc=BLOCK_K).to(tl.float32)
                scale = tl.load(scales_ptr + k // BLOCK_K, mask=rows < M, other=0.0)
                sums += product * scale[:, None]

        acc = sums.to(tl.float32)
        weight_scale = tl.load(weight_scale_ptr + columns, mask=columns < N, other=0.0)
        acc *= weight_scale[None, :]
        if not GROUPED:
            acc *= tl.load(scales_ptr, mask=rows < M, other=0.0)[:, None]
        if y_scale_ptr is not None:
            _finish_quantised(
                acc, y, y_scale_ptr, bias_ptr, stride_y, M, N, row, column,
                ACTIVATION, DESCRIPTORS, LIMIT, BLOCK_M, BLOCK_N,
            )  # fmt: skip
        else:
            finish(
                acc, y, None, residual, bias_ptr, stride_y, stride_residual, M, N, row, column,
                ACTIVATION, DESCRIPTORS, BLOCK_M, BLOCK_N, SLICE_N,
            )  # fmt: skip


def linear_8bit(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    activation: str | None = None,
    residual: torch.Tensor | None = None,
    dtype: torch.dtype = torch.bfloat16,
    out: torch.Tensor | None = None,
    hardware: Hardware | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """y = activation(x_scale * weight_scale * (x @ weight^T) + bias) + residual, and y's scales when it is 8-bit.

    Args:
        x: (M, K) fp8 e4m3 or int8. x_scale: (M, 1) float32, or (M, ceil(K / 128)), one for each 128 columns.
        weight: (N, K) in x's dtype. weight_scale: (N,) float32. bias: (N,) or None.
        activation: one of `linear.ACTIVATIONS`. residual: (M, N) or None; y has its dtype, else `dtype`.
        dtype: of y; x's quantises each row's groups of 128 columns (without a residual).
        out: where y goes, a fresh tensor when None. hardware: whose tiles to use, the device's when None.
    Returns: y (M, N); its scales (M, ceil(N / 128)) float32 when it is 8-bit, else None.
    Raises:
        ConfigurationError: a shape, stride, dtype or activation is not as written above.

    Equivalent to:
        wide = (x.float().unflatten(1, (-1, 128)) * x_scale[..., None]).flatten(1)
        y = activation(wide @ (weight.float() * weight_scale[:, None]).T + bias) + residual
    """
    rows, depth = check_matrix("x", x)
    columns, _ = check_matrix("weight", weight, (None, depth))
    check_matrix("x_scale", x_scale.contiguous(), (rows, None))
    check_vector("weight_scale", weight_scale, columns)
    check_vector("bias", bias, columns)
    check_matrix("residual", residual, (rows, columns))
    _check_options(x, weight, x_scale, activation, residual, dtype)
    y = flat_output(out, x, (rows, columns), dtype if residual is None else residual.dtype)
    y_scale = None
    if y.dtype == x.dtype:
        groups = triton.cdiv(columns, GROUP)
        y_scale = torch.empty(rows, groups, dtype=torch.float32, device=x.device)
    if rows and columns:
        hardware = hardware or hardware_of(x.device)
        tile = linear_8bit_tile(
            rows,
            columns,
            depth,
            hardware,
            promoted=x_scale.shape[1] > 1,
            whole_groups=y_scale is not None,
        )
        operands = (x, x_scale.contiguous(), weight, weight_scale, bias, residual)
        _launch(tile, hardware, y, y_scale, *operands, activation=activation)
    return y, y_scale


def _check_options(
    x: torch.Tensor,
    weight: torch.Tensor,
    x_scale: torch.Tensor,
    activation: str | None,
    residual: torch.Tensor | None,
    dtype: torch.dtype,
) -> None:
    if x.dtype not in QUANTISED_LIMIT or weight.dtype != x.dtype:
        raise ConfigurationError(
            f"x and weight have dtypes {x.dtype}, {weight.dtype}; expected {FP8} or {INT8}, both the same"
        )
    if dtype != x.dtype and dtype in QUANTISED_LIMIT:
        raise ConfigurationError(f"dtype={dtype}; expected a wider one than x's, or x's, {x.dtype}")
    if x_scale.shape[1] not in (1, triton.cdiv(x.shape[1], GROUP)):
        raise ConfigurationError(
            f"x_scale has {x_scale.shape[1]} columns; expected 1, or one for each {GROUP} of x's"
        )
    if activation not in ACTIVATIONS:
        raise ConfigurationError(f"activation={activation!r}; expected one of {ACTIVATIONS}")
    if dtype == x.dtype and residual is not None:
        raise ConfigurationError("an 8-bit output got a residual; expected none")


def _launch(
    tile: Tile,
    hardware: Hardware,
    y: torch.Tensor,
    y_scale: torch.Tensor | None,
    x: torch.Tensor,
    x_scale: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    *,
    activation: str | None,
) -> None:
    (rows, depth), columns, groups = x.shape, weight.shape[0], x_scale.shape[1]
    strides = (y.stride(0), x.stride(0), weight.stride(0), row_stride(residual))
    matrices: tuple[Any, ...] = (y, x, weight, residual)
    descriptors = hardware.has_descriptors and all(has_aligned_rows(matrix) for matrix in matrices)
    if descriptors:
        out_block = (tile.m, tile.slice_n if y_scale is None else GROUP)
        blocks = (out_block, (tile.m, tile.k), (tile.n, tile.k), out_block)
        matrices = tuple(map(described, matrices, blocks))
    y_tiles, x_tiles, weight_tiles, residual_tiles = matrices
    programs = min(
        hardware.multiprocessors, triton.cdiv(rows, tile.m) * triton.cdiv(columns, tile.n)
    )
    _linear_8bit_kernel[(programs,)](
        y_tiles, y_scale, x_tiles, weight_tiles, x_scale, weight_scale, bias, residual_tiles,
        *strides, groups, rows, columns, depth,
        ACTIVATION=compiled_activation(activation, x.dtype), DESCRIPTORS=descriptors,
        GROUPED=groups > 1, LIMIT=QUANTISED_LIMIT[x.dtype],
        BLOCK_M=tile.m, BLOCK_N=tile.n, BLOCK_K=tile.k, SLICE_N=tile.slice_n, GROUP_M=GROUP_M,
        num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=True,
        **dependent_launch(hardware, x.device),
    )  # fmt: skip


def unsupported_reason(dtype: torch.dtype, architecture: int) -> str | None:
    """None when the architecture multiplies fp8 or int8, whichever dtype is, else the sentence why not."""
    name, first = ("fp8", 89) if dtype == FP8 else ("int8", 80)
    if architecture < first:
        return f"{name} products need compute capability {first / 10:.1f} or newer, not {architecture / 10:.1f}"
    return None
