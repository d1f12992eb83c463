"""Attention with one query per sequence: the pooled row of a tower's last block, and CLIP ResNets' attention pooling.

    out[s] = softmax(q[s] k^T) v    over all keys of sequence s; the scale is in q

query, out: (B, D); kv: (T, 2D), columns key | value; heads of Dh in each; fp16 | bf16 | fp32, arithmetic in fp32.
The keys of sequence s: `length` rows, or rows cu_seqlens[s]:cu_seqlens[s+1], or key_rows[those].
One program = one head of one sequence, on CUDA cores: a single query leaves nothing for the tensor cores to share.
Bound by bandwidth: bytes = 2 T D itemsize, each key and value read once, 16 bytes at a time. No product tiles.
Source: Radford et al. 2021, arXiv:2103.00020, section 2.4; Milakov and Gimelshein 2018, arXiv:1805.02867.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from clipfast.errors import ConfigurationError
from clipfast.kernels.configs import POOL_KEYS, POOL_WARPS
from clipfast.kernels.operands import check_matrix, flat_output, unsupported_dtype

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _attention_pool_kernel(
    out_ptr, query_ptr, kv_ptr, cu_seqlens_ptr, key_rows_ptr,
    stride_out, stride_query, stride_kv, length, heads,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0) % heads
    sequence = (tl.program_id(0) // heads).to(tl.int64)
    if cu_seqlens_ptr is None:
        first = sequence * length
        keys = length
    else:
        first = tl.load(cu_seqlens_ptr + sequence).to(tl.int64)
        keys = (tl.load(cu_seqlens_ptr + sequence + 1) - first).to(tl.int32)
    columns = tl.arange(0, BLOCK_D)
    real = columns < HEAD_DIM
    query_ptr += sequence * stride_query + head * HEAD_DIM
    q = tl.load(query_ptr + columns, mask=real, other=0.0).to(tl.float32)
    kv_ptr += head * HEAD_DIM

    peak = tl.full((1,), float("-inf"), tl.float32)
    total = tl.zeros((1,), tl.float32)
    acc = tl.zeros((BLOCK_D,), tl.float32)
    for start in tl.range(0, keys, BLOCK_N):
        positions = start + tl.arange(0, BLOCK_N)
        inside = positions < keys
        rows = first + positions
        if key_rows_ptr is not None:
            rows = tl.load(key_rows_ptr + rows, mask=inside, other=0).to(tl.int64)
        offsets = rows[:, None] * stride_kv + columns[None, :]
        mask = inside[:, None] & real[None, :]
        k = tl.load(kv_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        v = tl.load(kv_ptr + heads * HEAD_DIM + offsets, mask=mask, other=0.0).to(tl.float32)
        scores = tl.where(inside, tl.sum(k * q[None, :], axis=1), float("-inf"))
        new_peak = tl.maximum(peak, tl.max(scores, axis=0))
        weights = tl.exp2((scores - new_peak) * LOG2_E)
        shrink = tl.exp2((peak - new_peak) * LOG2_E)
        total = total * shrink + tl.sum(weights, axis=0)
        acc = acc * shrink + tl.sum(weights[:, None] * v, axis=0)
        peak = new_peak
    out_ptr += sequence * stride_out + head * HEAD_DIM
    tl.store(out_ptr + columns, (acc / total).to(out_ptr.dtype.element_ty), mask=real)


def attention_pool(
    query: torch.Tensor,
    kv: torch.Tensor,
    heads: int,
    *,
    cu_seqlens: torch.Tensor | None = None,
    length: int | None = None,
    key_rows: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """out[s] = softmax(q[s] k^T) v for each head, over all keys of sequence s.

    Args:
        query: (B, D), scaled. kv: (T, 2D), columns key, value.
        cu_seqlens: (B + 1,) int32, or length: which keys belong to which query. Exactly one of the two.
        key_rows: (K,) int32 or None: the keys are the rows key_rows[cu_seqlens[s]:cu_seqlens[s+1]] of kv.
        out: where the result goes, a fresh tensor when None.
    Returns: (B, D) in query's dtype; arithmetic in float32.
    Raises:
        ConfigurationError: a shape or stride is not as written above.

    Equivalent to:
        torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=1.0) with one query row per sequence
    """
    sequences, width = check_matrix("query", query)
    rows, _ = check_matrix("kv", kv, (None, 2 * width))
    if (cu_seqlens is None) == (length is None):
        raise ConfigurationError(
            "attention_pool got cu_seqlens and length; expected exactly one of them"
        )
    known = len(cu_seqlens) - 1 if cu_seqlens is not None else rows // (length or 1)
    if known != sequences or width % heads:
        raise ConfigurationError(
            f"query has shape {tuple(query.shape)}; expected {known} sequences of {heads} equal heads"
        )
    out = flat_output(out, query, (sequences, width), query.dtype)
    if sequences:
        head_dim = width // heads
        _attention_pool_kernel[(sequences * heads,)](
            out, query, kv, cu_seqlens, key_rows,
            out.stride(0), query.stride(0), kv.stride(0), length or 0, heads,
            HEAD_DIM=head_dim, BLOCK_D=triton.next_power_of_2(head_dim), BLOCK_N=POOL_KEYS,
            num_warps=POOL_WARPS, num_stages=2, enable_fp_fusion=True,
        )  # fmt: skip
    return out


def unsupported_reason(dtype: torch.dtype, architecture: int) -> str | None:
    """None when attention_pool serves this dtype on this architecture, else the sentence why not."""
    return unsupported_dtype(dtype, architecture)
