"""Patch embedding: pixels to the tokens of a vision transformer, class row and positions included, in one launch.

    tokens[b, 0] = class_row;    tokens[b, 1 + p] = weight @ patch(pixels[b], p) + bias + positions[p]

pixels: (B, 3, R, R) uint8 (exact in fp16 and bf16; the normalisation is in weight and bias) or floating point;
weight: (D, 3 P P), features ordered channel, line, column; tokens: (B, L, D), L = (R // P)^2 + 1. Accumulator fp32.
One program = one tile of a product whose rows are tokens (a class row reads nothing) and whose inner axis walks the
lines of a patch, each padded to a power of two (14 -> 16): a line is contiguous in memory, whatever P.
MMA: wgmma on 90, tcgen05 on 100, mma.sync on 80, 89, 120; fp32 on CUDA cores. Loads: 16-byte cp.async for P = 16, 32;
P = 14 has lines of 14 pixels on even addresses, so 2-byte loads of pixels and 4-byte ones of weights.
Bound by the tensor cores; 0.2 to 2.6% of a tower. Source: Dosovitskiy et al. 2020, arXiv:2010.11929, equation 1.
"""

from __future__ import annotations

from math import isqrt

import torch
import triton
import triton.language as tl

from clipfast.errors import ConfigurationError
from clipfast.kernels.configs import PATCH_EMBED
from clipfast.kernels.operands import check_matrix, check_vector, unsupported_dtype


# One kernel for every T: no access is wider where it is a multiple of 16.
@triton.jit(do_not_specialize=["T"])
def _patch_embed_kernel(
    tokens_ptr, pixels_ptr, weight_ptr, bias_ptr, class_row_ptr, positions_ptr,
    stride_image, stride_channel, stride_line, stride_weight, stride_positions, T, D, L, G,
    PATCH: tl.constexpr, LINE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    tiles_n = tl.cdiv(D, BLOCK_N)
    rows = (tl.program_id(0) // tiles_n).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(0) % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    patch = (rows % L).to(tl.int32) - 1
    is_patch = (rows < T) & (patch >= 0)
    corners = rows // L * stride_image + patch // G * PATCH * stride_line + patch % G * PATCH

    k = tl.arange(0, BLOCK_K)
    column_in_line = k % LINE
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first_line in range(0, 3 * PATCH, BLOCK_K // LINE):
        line = first_line + k // LINE
        real = (line < 3 * PATCH) & (column_in_line < PATCH)
        offsets = line // PATCH * stride_channel + line % PATCH * stride_line + column_in_line
        pixels = tl.load(
            pixels_ptr + corners[:, None] + offsets[None, :],
            mask=is_patch[:, None] & real[None, :],
            other=0,
        )
        weight = tl.load(
            weight_ptr
            + columns[:, None] * stride_weight
            + (line * PATCH + column_in_line)[None, :],
            mask=(columns < D)[:, None] & real[None, :],
            other=0.0,
        )
        patches = pixels.to(tl.float32).to(weight.dtype)
        acc = tl.dot(patches, weight.T, acc, input_precision="ieee")

    inside = columns < D
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
    acc += tl.load(
        positions_ptr + patch[:, None] * stride_positions + columns[None, :],
        mask=is_patch[:, None] & inside[None, :],
        other=0.0,
    ).to(tl.float32)
    class_row = tl.load(class_row_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    acc = tl.where((patch < 0)[:, None], class_row[None, :], acc)
    tl.store(
        tokens_ptr + rows[:, None] * D + columns[None, :],
        acc.to(tokens_ptr.dtype.element_ty),
        mask=(rows < T)[:, None] & inside[None, :],
    )


def patch_embed(
    pixels: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    class_row: torch.Tensor,
    positions: torch.Tensor,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """tokens[b] = [class_row; patches(pixels[b]) @ weight^T + bias + positions].

    Args:
        pixels: (B, 3, R, R) uint8 in [0, 255], or floating point as the weight expects it; last stride 1.
        weight: (D, 3*P*P). bias: (D,) or None. class_row: (D,). positions: (L - 1, D), L - 1 = (R // P)^2.
        out: (B, L, D) contiguous, where the tokens go, a fresh tensor when None.
    Returns: (B, L, D) in the weight's dtype, float32 accumulation.
    Raises:
        ConfigurationError: a shape or stride is not as written above.

    Equivalent to:
        patches = conv2d(pixels.to(weight.dtype), weight.view(D, 3, P, P), bias, stride=P).flatten(2).mT
        tokens = cat([class_row.expand(B, 1, D), patches + positions], dim=1)
    """
    batch, tokens, patch = _shape(pixels, weight)
    width = weight.shape[0]
    check_vector("bias", bias, width)
    check_vector("class_row", class_row, width)
    check_matrix("positions", positions, (tokens - 1, width))
    if out is None:
        out = torch.empty(batch, tokens, width, dtype=weight.dtype, device=weight.device)
    elif out.shape != (batch, tokens, width) or not out.is_contiguous():
        raise ConfigurationError(
            f"out has shape {tuple(out.shape)}, strides {out.stride()}; "
            f"expected {(batch, tokens, width)}, contiguous"
        )
    if batch:
        tile = PATCH_EMBED[weight.dtype.itemsize * 8]
        line = triton.next_power_of_2(patch)
        tiles = triton.cdiv(batch * tokens, tile.m) * triton.cdiv(width, tile.n)
        _patch_embed_kernel[(tiles,)](
            out, pixels, weight, bias, class_row, positions,
            *pixels.stride()[:3], weight.stride(0), positions.stride(0),
            batch * tokens, width, tokens, pixels.shape[3] // patch,
            PATCH=patch, LINE=line, BLOCK_M=tile.m, BLOCK_N=tile.n, BLOCK_K=max(tile.k, line),
            num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=True,
        )  # fmt: skip
    return out


def _shape(pixels: torch.Tensor, weight: torch.Tensor) -> tuple[int, int, int]:
    """B, L and P."""
    _, features = check_matrix("weight", weight)
    patch = isqrt(features // 3)
    batch, channels, height, size = pixels.shape
    if 3 * patch * patch != features or channels != 3 or height != size or size < patch:
        raise ConfigurationError(
            f"pixels have shape {tuple(pixels.shape)} and weight {tuple(weight.shape)}; "
            "expected (B, 3, R, R) and (D, 3 P P) with P <= R"
        )
    if pixels.stride(3) != 1:
        raise ConfigurationError(
            f"pixels have strides {pixels.stride()}; expected the last to be 1"
        )
    return batch, (size // patch) ** 2 + 1, patch


def unsupported_reason(dtype: torch.dtype, architecture: int) -> str | None:
    """None when patch_embed serves weights of this dtype on this architecture, else the sentence why not."""
    return unsupported_dtype(dtype, architecture)
