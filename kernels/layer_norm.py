"""LayerNorm over the last axis, optionally after a residual add, optionally quantised per row.

    r = x + residual;  y = (r - mean(r)) * rsqrt(var(r) + eps) * weight + bias        # var without Bessel
    quantised:  scale = max |y| / limit;  stored y = round(y / scale)                 # per row

x, residual, y, r: (M, D), row stride free, last stride 1; weight, bias: (D,) or None; scale: (M,) float32.
fp16 | bf16 | fp32 in and out, or fp8 e4m3 | int8 out; statistics in fp32, in two passes over registers.
One program = one row, which stays in registers (D <= 8192): one read of memory.
Bound by bandwidth: bytes = M * D * (itemsize of x + y, + residual + r).  No product; 16-byte accesses.
Source: Ba et al. 2016, arXiv:1607.06450.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from clipfast.errors import ConfigurationError
from clipfast.kernels.configs import row_warps
from clipfast.kernels.dependent_launch import dependent_launch, wait_for_previous
from clipfast.kernels.hardware import Hardware, hardware_of
from clipfast.kernels.operands import (
    check_matrix,
    check_vector,
    flat_output,
    row_stride,
    unsupported_dtype,
)

MAX_WIDTH = 8192
QUANTISED_LIMIT = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}


@triton.jit
def _layer_norm_kernel(
    y_ptr, r_ptr, scale_ptr, x_ptr, residual_ptr, weight_ptr, bias_ptr,
    stride_y, stride_r, stride_x, stride_residual, D, eps,
    LIMIT: tl.constexpr, BLOCK_D: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    wait_for_previous(PDL)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK_D)
    inside = columns < D

    r = tl.load(x_ptr + row * stride_x + columns, mask=inside, other=0.0).to(tl.float32)
    if residual_ptr is not None:
        r += tl.load(residual_ptr + row * stride_residual + columns, mask=inside, other=0.0).to(
            tl.float32
        )
        tl.store(r_ptr + row * stride_r + columns, r.to(r_ptr.dtype.element_ty), mask=inside)

    mean = tl.sum(r, axis=0) / D
    centred = tl.where(inside, r - mean, 0.0)
    variance = tl.sum(centred * centred, axis=0) / D
    y = centred * tl.rsqrt(variance + eps)
    if weight_ptr is not None:
        y *= tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    if bias_ptr is not None:
        y += tl.load(bias_ptr + columns, mask=inside, other=0.0).to(tl.float32)

    if LIMIT is not None:
        # A row of zeros keeps the scale 1 and stays zeros.
        largest = tl.max(tl.abs(y), axis=0)
        scale = tl.where(largest > 0.0, largest / LIMIT, 1.0)
        tl.store(scale_ptr + row, scale)
        y = y / scale
        if y_ptr.dtype.element_ty == tl.int8:
            y = tl.floor(y + 0.5)
    tl.store(y_ptr + row * stride_y + columns, y.to(y_ptr.dtype.element_ty), mask=inside)


def layer_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    residual: torch.Tensor | None = None,
    *,
    dtype: torch.dtype | None = None,
    out: torch.Tensor | None = None,
    hardware: Hardware | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """y = (r - mean(r)) * rsqrt(var(r) + eps) * weight + bias with r = x + residual; and r; and y's row scales.

    Args:
        x: (M, D) floating point. residual: (M, D) or None.
        weight, bias: (D,) or None.
        dtype: of y, x's when None; torch.float8_e4m3fn and torch.int8 quantise each row to y * scale.
        out: where y goes, a fresh tensor when None. hardware: what it runs on, the device's when None.
    Returns: y (M, D); r (M, D) in the residual's dtype or None; scale (M,) float32 or None. Statistics in float32.
    Raises:
        ConfigurationError: a shape or stride is not as written above, or D > MAX_WIDTH.

    Equivalent to:
        r = x + residual
        y = torch.nn.functional.layer_norm(r, r.shape[-1:], weight, bias, eps)
    """
    rows, width = check_matrix("x", x)
    if width > MAX_WIDTH:
        raise ConfigurationError(f"x has width {width}; expected at most {MAX_WIDTH}")
    check_vector("weight", weight, width)
    check_vector("bias", bias, width)
    y = flat_output(out, x, (rows, width), dtype or x.dtype)
    r = None
    check_matrix("residual", residual, (rows, width))
    if residual is not None:
        r = torch.empty_like(residual, memory_format=torch.contiguous_format)
    limit = QUANTISED_LIMIT.get(y.dtype)
    scale = None if limit is None else torch.empty(rows, dtype=torch.float32, device=x.device)
    if rows:
        block = triton.next_power_of_2(width)
        _layer_norm_kernel[(rows,)](
            y, r, scale, x, residual, weight, bias,
            y.stride(0), row_stride(r), x.stride(0), row_stride(residual), width, eps,
            LIMIT=limit, BLOCK_D=block,
            num_warps=row_warps(block), enable_fp_fusion=True,
            **dependent_launch(hardware or hardware_of(x.device), x.device),
        )  # fmt: skip
    return y, r, scale


def unsupported_reason(dtype: torch.dtype, architecture: int) -> str | None:
    """None when layer_norm serves this dtype on this architecture, else the sentence why not."""
    return unsupported_dtype(dtype, architecture)
