"""Attention over CLIP's sequences: dense images, packed causal texts, and texts that share their prefixes.

    out = softmax(q k^T) v    per sequence and head; the scale is in q, log2(e) in the exponent; no padding

qkv: (T, 3D), columns query | key | value, heads of Dh in each; out: (T, D); fp16 | bf16 | fp32, softmax in fp32.
A sequence is `length` rows, or rows cu_queries[s]:cu_queries[s+1] with keys the same rows (packed) or
key_rows[cu_keys[s]:cu_keys[s+1]] (prefix tree), own rows last; causal row j of n sees the first m - n + j + 1 of m.
One program = BLOCK_M query rows of one head; keys in unmasked blocks of BLOCK_N, then masked ones of REST_N for the
remainder (257 = 4 x 64 + 16). Dh = HEAD + TAIL, both powers of two (72 = 64 + 16 with 8 masked): no padding to 128.
MMA: dense wgmma on 90, tcgen05 on 100, mma.sync on 80, 89, 120; packed mma.sync everywhere, 16 rows being less than
one wgmma; fp32 on CUDA cores. Loads: 16-byte cp.async. Bound by memory up to L = 257.
Source: Dao et al. 2022, arXiv:2205.14135, algorithm 1; Milakov and Gimelshein 2018, arXiv:1805.02867.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from clipfast.errors import ConfigurationError
from clipfast.kernels.configs import AttentionTile, attention_tile
from clipfast.kernels.dependent_launch import dependent_launch, wait_for_previous
from clipfast.kernels.hardware import Hardware, hardware_of
from clipfast.kernels.operands import check_matrix, flat_output, unsupported_dtype

MIN_HEAD_DIM, MAX_HEAD_DIM = 16, 128
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _attend(
    peak, total, acc, acc_tail, q, q_tail, k_ptr, v_ptr, key_rows_ptr, stride_qkv,
    start, keys, last_key, MASKED: tl.constexpr,
    HEAD_DIM: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Folds the keys start : start + BLOCK_N into the running softmax (peak, total) and the outputs."""
    positions = start + tl.arange(0, BLOCK_N)
    inside = positions < keys
    rows = positions
    if key_rows_ptr is not None:
        rows = tl.load(key_rows_ptr + positions, mask=inside, other=0).to(tl.int64)
    offsets = rows[:, None] * stride_qkv + tl.arange(0, HEAD)[None, :]
    if MASKED:
        k = tl.load(k_ptr + offsets, mask=inside[:, None], other=0.0)
        v = tl.load(v_ptr + offsets, mask=inside[:, None], other=0.0)
    else:
        k = tl.load(k_ptr + offsets)
        v = tl.load(v_ptr + offsets)
    scores = tl.dot(q, k.T, input_precision="ieee")
    if TAIL:
        tail = HEAD + tl.arange(0, TAIL)
        offsets = rows[:, None] * stride_qkv + tail[None, :]
        real = inside[:, None] & (tail < HEAD_DIM)[None, :]
        k_tail = tl.load(k_ptr + offsets, mask=real, other=0.0)
        v_tail = tl.load(v_ptr + offsets, mask=real, other=0.0)
        scores = tl.dot(q_tail, k_tail.T, scores, input_precision="ieee")
    if MASKED:
        scores = tl.where(positions[None, :] <= last_key[:, None], scores, float("-inf"))

    new_peak = tl.maximum(peak, tl.max(scores, axis=1))
    weights = tl.exp2((scores - new_peak[:, None]) * LOG2_E)
    shrink = tl.exp2((peak - new_peak) * LOG2_E)
    total = total * shrink + tl.sum(weights, axis=1)
    weights = weights.to(v.dtype)
    acc = tl.dot(weights, v, acc * shrink[:, None], input_precision="ieee")
    if TAIL:
        acc_tail = tl.dot(weights, v_tail, acc_tail * shrink[:, None], input_precision="ieee")
    return new_peak, total, acc, acc_tail


@triton.jit
def _attention_kernel(
    out_ptr, qkv_ptr, cu_queries_ptr, cu_keys_ptr, key_rows_ptr,
    stride_out, stride_qkv, length, heads, blocks, CAUSAL: tl.constexpr,
    HEAD_DIM: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, REST_N: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    wait_for_previous(PDL)
    block = tl.program_id(0) % blocks
    head = tl.program_id(0) // blocks % heads
    sequence = tl.program_id(0) // blocks // heads
    if cu_queries_ptr is None:
        first_query = sequence.to(tl.int64) * length
        queries = length
    else:
        first_query = tl.load(cu_queries_ptr + sequence).to(tl.int64)
        queries = (tl.load(cu_queries_ptr + sequence + 1) - first_query).to(tl.int32)
    q_ptr = qkv_ptr + first_query * stride_qkv + head * HEAD_DIM
    out_ptr += first_query * stride_out + head * HEAD_DIM
    if key_rows_ptr is None:
        keys = queries
        k_ptr = q_ptr + heads * HEAD_DIM
    else:
        first_key = tl.load(cu_keys_ptr + sequence)
        keys = tl.load(cu_keys_ptr + sequence + 1) - first_key
        key_rows_ptr += first_key
        k_ptr = qkv_ptr + (heads + head) * HEAD_DIM
    v_ptr = k_ptr + heads * HEAD_DIM
    columns = tl.arange(0, HEAD)[None, :]
    tail = HEAD + tl.arange(0, TAIL if TAIL else 16)[None, :]

    for start in range(block * BLOCK_M, queries, blocks * BLOCK_M):
        rows = start + tl.arange(0, BLOCK_M)
        inside = (rows < queries)[:, None]
        q_rows = q_ptr + rows[:, None] * stride_qkv
        q = tl.load(q_rows + columns, mask=inside, other=0.0)
        q_tail = q
        if TAIL:
            q_tail = tl.load(q_rows + tail, mask=inside & (tail < HEAD_DIM), other=0.0)
        peak = tl.full((BLOCK_M,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK_M,), tl.float32)
        acc = tl.zeros((BLOCK_M, HEAD), tl.float32)
        acc_tail = tl.zeros((BLOCK_M, TAIL if TAIL else 16), tl.float32)
        if CAUSAL:
            last_key = keys - queries + rows
            stop = tl.minimum(keys, keys - queries + start + BLOCK_M)
        else:
            last_key = tl.zeros((BLOCK_M,), tl.int32) + (keys - 1)
            stop = keys
        # Two loops where the last block is narrower; one loop, always masked, takes fewer registers.
        unmasked = 0
        if REST_N < BLOCK_N:
            unmasked = (keys - queries + start + 1 if CAUSAL else keys) // BLOCK_N * BLOCK_N
            for key in tl.range(0, unmasked, BLOCK_N):
                peak, total, acc, acc_tail = _attend(
                    peak, total, acc, acc_tail, q, q_tail, k_ptr, v_ptr, key_rows_ptr, stride_qkv,
                    key, keys, last_key, False, HEAD_DIM, HEAD, TAIL, BLOCK_N,
                )  # fmt: skip
        for key in tl.range(unmasked, stop, REST_N):
            peak, total, acc, acc_tail = _attend(
                peak, total, acc, acc_tail, q, q_tail, k_ptr, v_ptr, key_rows_ptr, stride_qkv,
                key, keys, last_key, True, HEAD_DIM, HEAD, TAIL, REST_N,
            )  # fmt: skip

        out_rows = out_ptr + rows[:, None] * stride_out
        dtype = out_ptr.dtype.element_ty
        tl.store(out_rows + columns, (acc / total[:, None]).to(dtype), mask=inside)
        if TAIL:
            acc_tail = (acc_tail / total[:, None]).to(dtype)
            tl.store(out_rows + tail, acc_tail, mask=inside & (tail < HEAD_DIM))


def attention(
    qkv: torch.Tensor,
    heads: int,
    *,
    cu_seqlens: torch.Tensor | None = None,
    length: int | None = None,
    causal: bool = False,
    out: torch.Tensor | None = None,
    hardware: Hardware | None = None,
) -> torch.Tensor:
    """out = softmax(q k^T) v for each head of each sequence.

    Args:
        qkv: (T, 3D), columns query (scaled), key, value, each split into heads of Dh in 16..128.
        cu_seqlens: (B + 1,) int32, sequence b is the rows cu_seqlens[b]:cu_seqlens[b+1]; or
        length: of every sequence. Exactly one of the two.
        causal: row i of a sequence sees its rows <= i.
        out: where the result goes, a fresh tensor when None. hardware: whose tiles to use, the device's when None.
    Returns: (T, D) in qkv's dtype; scores and softmax in float32.
    Raises:
        ConfigurationError: a shape or stride is not as written above.

    Equivalent to:
        torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=1.0)
    """
    if (cu_seqlens is None) == (length is None):
        raise ConfigurationError(
            "attention got cu_seqlens and length; expected exactly one of them"
        )
    hardware = hardware or hardware_of(qkv.device)
    kind = "packed" if causal or length is None else "dense"
    tile, head = _tile(kind, qkv, heads, hardware)
    if length is None:
        return _launch(hardware, tile, head, qkv, heads, cu_seqlens, None, None, 0, 1, causal, out)
    if length < 1 or qkv.shape[0] % length:
        raise ConfigurationError(f"qkv has {qkv.shape[0]} rows; expected a multiple of {length=}")
    blocks = triton.cdiv(length, tile.queries)
    return _launch(hardware, tile, head, qkv, heads, None, None, None, length, blocks, causal, out)


def tree_attention(
    qkv: torch.Tensor,
    heads: int,
    cu_queries: torch.Tensor,
    cu_keys: torch.Tensor,
    key_rows: torch.Tensor,
    *,
    out: torch.Tensor | None = None,
    hardware: Hardware | None = None,
) -> torch.Tensor:
    """Causal attention of runs of rows over their ancestors in a prefix tree and themselves.

    Args:
        qkv: (T, 3D) as in `attention`.
        cu_queries, cu_keys: (runs + 1,) int32. key_rows: (cu_keys[-1],) int32, as in `ops.PrefixTree`.
    Returns: (T, D) in qkv's dtype; scores and softmax in float32.
    Raises:
        ConfigurationError: a shape or stride is not as written above.

    Equivalent to:
        `attention` with causal=True on each sequence written out in full, its shared rows taken once
    """
    if cu_keys.shape != cu_queries.shape:
        raise ConfigurationError(
            f"cu_keys has shape {tuple(cu_keys.shape)}; expected cu_queries', {tuple(cu_queries.shape)}"
        )
    hardware = hardware or hardware_of(qkv.device)
    tile, head = _tile("packed", qkv, heads, hardware)
    return _launch(hardware, tile, head, qkv, heads, cu_queries, cu_keys, key_rows, 0, 1, True, out)


def _tile(
    kind: str, qkv: torch.Tensor, heads: int, hardware: Hardware
) -> tuple[AttentionTile, int]:
    """The tile, and the first part of the head dim: the largest power of two in it."""
    _, columns = check_matrix("qkv", qkv)
    head_dim = columns // (3 * heads)
    if columns != 3 * heads * head_dim or not MIN_HEAD_DIM <= head_dim <= MAX_HEAD_DIM:
        raise ConfigurationError(
            f"qkv has {columns} columns; expected 3 x {heads} heads of {MIN_HEAD_DIM} to {MAX_HEAD_DIM}"
        )
    head = 1 << (head_dim.bit_length() - 1)
    return attention_tile(kind, qkv.dtype.itemsize * 8, head != head_dim, hardware), head


def _launch(
    hardware: Hardware,
    tile: AttentionTile,
    head: int,
    qkv: torch.Tensor,
    heads: int,
    cu_queries: torch.Tensor | None,
    cu_keys: torch.Tensor | None,
    key_rows: torch.Tensor | None,
    length: int,
    blocks: int,
    causal: bool,
    out: torch.Tensor | None,
) -> torch.Tensor:
    rows, width = qkv.shape[0], qkv.shape[1] // 3
    head_dim = width // heads
    out = flat_output(out, qkv, (rows, width), qkv.dtype)
    sequences = rows // length if cu_queries is None else cu_queries.shape[0] - 1
    if rows == 0 or sequences == 0:
        return out
    # The last key block is as wide as the remainder of a known length, so that 1 key past 256 costs 16.
    narrowest, rest = tile.rest
    if length and not causal:
        rest = min(rest, max(narrowest, triton.next_power_of_2(length % tile.keys)))
    _attention_kernel[(sequences * heads * blocks,)](
        out, qkv, cu_queries, cu_keys, key_rows,
        out.stride(0), qkv.stride(0), length, heads, blocks, CAUSAL=causal,
        HEAD_DIM=head_dim, HEAD=head,
        TAIL=0 if head == head_dim else max(16, triton.next_power_of_2(head_dim - head)),
        BLOCK_M=tile.queries, BLOCK_N=tile.keys, REST_N=rest,
        num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=True,
        **dependent_launch(hardware, qkv.device),
    )  # fmt: skip
    return out


def unsupported_reason(dtype: torch.dtype, architecture: int) -> str | None:
    """None when attention serves this dtype on this architecture, else the sentence why not."""
    return unsupported_dtype(dtype, architecture)
