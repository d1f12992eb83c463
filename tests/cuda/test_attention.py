"""The attention loops of the CUDA kernels, run here on a machine that checks every access, against float64."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from clipfast.backends import reference
from tests.cuda.host_attention import DEVICES, attention, attention_pool, plan
from tests.cuda.host_library import HostError
from tests.cuda.parity import assert_parity

BF16, FP16 = torch.bfloat16, torch.float16


def qkv_rows(rows: int, heads: int, head_dim: int, dtype: torch.dtype = BF16, seed: int = 0):
    """Random rows whose scores spread over several units, as trained queries' do."""
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(rows, 3 * heads * head_dim, generator=generator)
    qkv[:, : heads * head_dim] *= 3 * head_dim**-0.5
    return qkv.to(dtype)


def check(qkv: torch.Tensor, heads: int, architecture: int = 90, changes=(), **arguments) -> None:
    run = partial(attention, qkv, heads, architecture=architecture, changes=changes, **arguments)
    out, other = run(), run(reversed_warps=True)
    assert torch.equal(out, other), "the order in which warps run shows in the bits"
    plain = reference.attention(qkv, heads, **arguments)
    assert_parity(out, plain, reference.attention(qkv.double(), heads, **arguments))


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 50, 65, 77, 197, 257])
def test_dense_lengths_of_clip(length):
    check(qkv_rows(length, 1, 64), 1, length=length)


@pytest.mark.parametrize("head_dim", [72, 80, 88, 104])
def test_head_dims_at_257_and_50(head_dim):
    check(qkv_rows(257, 1, head_dim), 1, length=257)
    check(qkv_rows(50, 2, head_dim), 2, length=50)


def test_heads_and_images_in_fp16():
    check(qkv_rows(3 * 50, 2, 64, FP16), 2, length=50)


@pytest.mark.parametrize("architecture", [80, 89, 90])
def test_577_tokens_kept_or_streamed(architecture):
    assert plan(architecture, 1, 577, 1, 64).keeps_all == (architecture != 89)
    check(qkv_rows(577, 1, 64), 1, architecture, length=577)


def test_257_tokens_of_head_dim_104_are_streamed_where_they_do_not_fit():
    assert plan(89, 1, 257, 1, 104).loop == "online"
    check(qkv_rows(257, 1, 104), 1, 89, length=257)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [BF16, FP16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("length", [48, 49, 55, 56, 57, 80, 81, 145, 192, 200, 201, 226, 264, 265])
def test_lengths_around_the_tiles(length, dtype):
    check(qkv_rows(length, 1, 64, dtype), 1, length=length)


@pytest.mark.slow
@pytest.mark.parametrize("head_dim", [64, 72, 80, 88, 104])
@pytest.mark.parametrize("architecture", [80, 89])
def test_long_sequences_of_every_head_dim(head_dim, architecture):
    check(qkv_rows(730, 1, head_dim), 1, architecture, length=730)


@pytest.mark.parametrize("length", [1, 16, 33, 64, 77, 300])
def test_dense_causal(length):
    check(qkv_rows(2 * length, 1, 64), 1, length=length, causal=True)


@pytest.mark.slow
def test_dense_causal_streamed():
    assert not plan(89, 1, 500, 1, 64, causal=True).keeps_all
    check(qkv_rows(500, 1, 64), 1, 89, length=500, causal=True)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize("head_dim", [64, 72, 80, 88, 104])
def test_packed(head_dim, causal):
    cu_seqlens = torch.tensor([0, 5, 21, 22, 54, 131], dtype=torch.int32)
    check(qkv_rows(131, 2, head_dim), 2, cu_seqlens=cu_seqlens, causal=causal)


def test_empty_sequences_and_empty_batches():
    cu_seqlens = torch.tensor([0, 0, 9, 9], dtype=torch.int32)
    qkv = qkv_rows(9, 1, 64)
    whole = torch.tensor([0, 9], dtype=torch.int32)
    out = attention(qkv, 1, cu_seqlens=cu_seqlens, causal=True)
    assert torch.equal(out, attention(qkv, 1, cu_seqlens=whole, causal=True))
    assert attention(qkv[:0], 1, length=50).shape == (0, 64)
    query, kv = qkv_rows(4, 1, 64)[:, :64].contiguous(), qkv_rows(9, 1, 64)[:, 64:].contiguous()
    offsets = torch.tensor([0, 0, 9, 9, 9], dtype=torch.int32)
    pooled = attention_pool(query, kv, 1, cu_seqlens=offsets)[1]
    assert torch.equal(pooled, attention_pool(query[1:2], kv, 1, cu_seqlens=whole)[0])
    none = torch.zeros(1, dtype=torch.int32)
    assert attention(qkv[:0], 1, cu_seqlens=none).shape == (0, 64)


def test_rows_do_not_depend_on_the_batch_or_the_schedule():
    qkv = qkv_rows(4 * 257, 1, 64)
    # Alone, the rows of an image are divided among blocks; beside others they are not.
    assert plan(90, 1, 257, 1, 64).row_blocks > plan(90, 500, 257, 1, 64).row_blocks == 1
    batch = attention(qkv, 1, length=257)
    for image in range(4):
        rows = slice(image * 257, (image + 1) * 257)
        assert torch.equal(attention(qkv[rows], 1, length=257), batch[rows])


QUERY_BESIDE_ROWS = (
    "cuda/attention_plan.h",
    "plan.query_block = plan.row_blocks;",
    "plan.query_block = 0;",
)


@pytest.mark.parametrize("length", [65, 257])
def test_the_class_query_has_the_same_bits_in_a_block_of_its_own(length):
    alone, many = plan(90, 1, length, 1, 64), plan(90, 500, length, 1, 64)
    assert alone.query_block == alone.row_blocks > many.query_block == 0
    qkv = qkv_rows(length, 1, 64)
    beside = attention(qkv, 1, length=length, changes=(QUERY_BESIDE_ROWS,))
    assert torch.equal(attention(qkv, 1, length=length), beside)


def test_large_scores_do_not_overflow():
    qkv = qkv_rows(257, 1, 64)
    qkv[:, :64] *= 40  # scores of several hundred: exp overflows without the maximum
    check(qkv, 1, length=257)
    check(qkv[:77], 1, cu_seqlens=torch.tensor([0, 77], dtype=torch.int32), causal=True)


def opposed(rows: int, head_dim: int = 64) -> torch.Tensor:
    """Every score is about -13: a key of zeros, as beyond the sequence, would outweigh all others."""
    qkv = qkv_rows(rows, 1, head_dim)
    qkv[:, :head_dim], qkv[:, head_dim : 2 * head_dim] = 0.5, -0.4
    return qkv


@pytest.mark.parametrize("length", [1, 50, 55, 197, 257, 300])
def test_keys_beyond_the_sequence_have_no_weight(length):
    check(opposed(length), 1, length=length)
    cu_seqlens = torch.tensor([0, length // 2, length], dtype=torch.int32)
    for causal in (True, False):
        check(opposed(length), 1, cu_seqlens=cu_seqlens[length == 1 :], causal=causal)


@pytest.mark.parametrize("head_dim", [64, 72, 104, 128, 8])
@pytest.mark.parametrize("length", [1, 50, 257, 600])
def test_pool(length, head_dim):
    heads = 2
    query = qkv_rows(2, heads, head_dim)[:, : heads * head_dim].contiguous()
    kv = qkv_rows(2 * length, heads, head_dim, seed=1)[:, heads * head_dim :].contiguous()
    out = attention_pool(query, kv, heads, length=length)
    assert torch.equal(out, attention_pool(query, kv, heads, length=length, reversed_warps=True))
    plain = reference.attention_pool(query, kv, heads, length=length)
    truth = reference.attention_pool(query.double(), kv.double(), heads, length=length)
    assert_parity(out, plain, truth)


def test_pool_over_listed_rows():
    cu_seqlens = torch.tensor([0, 3, 10, 16], dtype=torch.int32)
    key_rows = torch.tensor([0, 1, 2, 0, 1, 3, 4, 5, 6, 7, 0, 1, 2, 8, 9, 10], dtype=torch.int32)
    query = qkv_rows(3, 1, 64, FP16)[:, :64].contiguous()
    kv = qkv_rows(11, 1, 64, FP16, seed=1)[:, 64:].contiguous()
    arguments = {"cu_seqlens": cu_seqlens, "key_rows": key_rows}
    truth = reference.attention_pool(query.double(), kv.double(), 1, **arguments)
    plain = reference.attention_pool(query, kv, 1, **arguments)
    assert_parity(attention_pool(query, kv, 1, **arguments), plain, truth)


MODELS = [(50, 64), (197, 64), (257, 64), (577, 64), (257, 80), (730, 80), (257, 88), (257, 104)]


@pytest.mark.parametrize("architecture", DEVICES)
def test_plans_fit_every_architecture(architecture):
    _, _, block_limit = DEVICES[architecture]
    for length, head_dim in MODELS:
        for batch in (1, 8, 256):
            made = plan(architecture, batch, length, 16, head_dim)
            assert 0 < made.shared_bytes <= block_limit
            tiles = -(-(length - made.first_row) // 16)
            assert 1 <= made.warps <= 12
            assert 1 <= made.row_blocks <= -(-tiles // made.warps)
            assert 1 <= made.blocks_a_multiprocessor <= 4
            assert made.key_tiles * 8 >= length or made.loop == "online"


def test_plans_of_the_published_towers():
    b32, b16, l14 = (plan(90, 64, length, 12, 64) for length in (50, 197, 257))
    assert (b32.loop, b32.key_tiles, b32.first_row) == ("resident", 7, 0)
    assert (b16.loop, b16.key_tiles, b16.first_row) == ("resident", 25, 0)
    # 257 = 16 x 16 + 1: the class token's query would cost a seventeenth tile.
    assert (l14.loop, l14.key_tiles, l14.first_row, l14.warps) == ("resident", 33, 1, 4)
    assert [made.blocks_a_multiprocessor for made in (b32, b16, l14)] == [4, 4, 2]
    assert plan(90, 64, 577, 16, 64).keeps_all
    assert not plan(120, 64, 577, 16, 64).keeps_all
    assert plan(90, 1000, 0, 8, 64, packed=True, causal=True).loop == "packed"


def _mask(name: str):
    return (
        "cuda/attention_tile.h",
        "if (mine + (e & 1) >= visible[e >> 1]) s[e] = -INFINITY;",
        name,
    )


FAULTS = {
    "a key too many": _mask("if (mine + (e & 1) > visible[e >> 1]) s[e] = -INFINITY;"),
    "values before their maximum": (
        "cuda/attention_tile.h",
        "fmaf(s[2 * half], kLog2E, -scaled_largest[half])",
        "fmaf(s[2 * half], kLog2E, 0.0f)",
    ),
    "no wait for the values": (
        "cuda/attention_loop.h",
        "            m.template wait_copies<0>();\n            m.sync();\n        }\n        float total",
        "        }\n        float total",
    ),
    "no barrier before reading the keys": (
        "cuda/attention_loop.h",
        "            m.template wait_copies<1>();\n            m.sync();",
        "            m.template wait_copies<1>();",
    ),
    "a swizzle that collides": (
        "cuda/fragment.h",
        "if constexpr (kChunks == 8) return chunk ^ (row & 7);",
        "if constexpr (kChunks == 8) return chunk ^ (row & 3);",
    ),
}


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(name, marks=[] if name == "a key too many" else pytest.mark.slow)
        for name in FAULTS
    ],
)
def test_a_seeded_fault_is_seen(fault):
    with pytest.raises((AssertionError, HostError)):
        check(opposed(50), 1, length=50, changes=(FAULTS[fault],))
