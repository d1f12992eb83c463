"""What the gallery kernels share: cosines of a block of queries with a block of keys, norms included.

    cosine[i, j] = (q_i . k_j) / (max(|q_i|, 1e-12) max(|k_j|, 1e-12))

q: (M, E), k: (N, E), fp16 | bf16 | fp32; products, norms and cosines in fp32. The norms of the keys are summed from the
tiles that the product reads anyway, so a gallery is read once and never has to be normalised first.
MMA: wgmma on 90, tcgen05 on 100, mma.sync on 80, 89, 120; fp32 on CUDA cores. Loads: 16-byte cp.async.
Source: Radford et al. 2021, arXiv:2103.00020, figure 3.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from clipfast.errors import ConfigurationError
from clipfast.kernels.configs import Tile
from clipfast.kernels.hardware import Hardware
from clipfast.kernels.operands import check_matrix


@triton.jit
def _inverse_root(x):
    """1 / sqrt(x) to one rounding: the hardware's 22 bits, too few for a scale of 100, and a step of Newton's."""
    root = tl.rsqrt(x)
    return root + 0.5 * root * (1.0 - x * root * root)


@triton.jit
def inverse_norms(x_ptr, stride_x, M, E, BLOCK_M: tl.constexpr, BLOCK_E: tl.constexpr):
    """1 / max(|x_i|, 1e-12) of the first BLOCK_M rows at x_ptr, of which M exist."""
    rows = tl.arange(0, BLOCK_M)
    inner = tl.arange(0, BLOCK_E)
    squares = tl.zeros((BLOCK_M,), tl.float32)
    for e in range(0, E, BLOCK_E):
        real = (rows < M)[:, None] & (inner < E - e)[None, :]
        offsets = rows[:, None] * stride_x + e + inner[None, :]
        x = tl.load(x_ptr + offsets, mask=real, other=0.0).to(tl.float32)
        squares += tl.sum(x * x, axis=1)
    return _inverse_root(tl.maximum(squares, 1e-24))


@triton.jit
def cosine_block(
    q_ptr, k_ptr, q_scale, stride_q, stride_k, M, N, E,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """q_scale_i (q_i . k_j) / |k_j| of the first rows at q_ptr and k_ptr, of which M and N exist."""
    rows = tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK_N)
    inner = tl.arange(0, BLOCK_E)
    q_ptrs = q_ptr + rows[:, None] * stride_q + inner[None, :]
    k_ptrs = k_ptr + columns[:, None] * stride_k + inner[None, :]
    products = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    squares = tl.zeros((BLOCK_N,), tl.float32)
    for e in tl.range(0, E, BLOCK_E):
        real = (inner < E - e)[None, :]
        q = tl.load(q_ptrs + e, mask=(rows < M)[:, None] & real, other=0.0)
        k = tl.load(k_ptrs + e, mask=(columns < N)[:, None] & real, other=0.0)
        products = tl.dot(q, k.T, products, input_precision="ieee")
        wide = k.to(tl.float32)
        squares += tl.sum(wide * wide, axis=1)
    k_scale = _inverse_root(tl.maximum(squares, 1e-24))
    return products * q_scale[:, None] * k_scale[None, :]


def check_pair(queries: torch.Tensor, gallery: torch.Tensor) -> tuple[int, int, int]:
    """M, N, E of queries (M, E) and a gallery (N, E) of one dtype."""
    rows, width = check_matrix("queries", queries)
    columns, _ = check_matrix("gallery", gallery, (None, width))
    if gallery.dtype != queries.dtype:
        raise ConfigurationError(
            f"the gallery has dtype {gallery.dtype}; expected the queries', {queries.dtype}"
        )
    return rows, columns, width


def slices_of(rows: int, columns: int, tile: Tile, hardware: Hardware) -> tuple[int, int]:
    """How many slices of the gallery, and how many keys in each, so that every multiprocessor has one."""
    blocks = triton.cdiv(columns, tile.n)
    slices = min(blocks, triton.cdiv(hardware.multiprocessors, triton.cdiv(rows, tile.m)))
    keys = triton.cdiv(blocks, slices) * tile.n
    return triton.cdiv(columns, keys), keys
