"""Attention in C++ against float64: dense, packed causal, prefix trees, one query."""

from __future__ import annotations

import pytest
import torch

from clipfast.backends.cpu_towers import TowerKernels
from clipfast.backends.reference import REFERENCE
from clipfast.errors import InputError
from clipfast.ops import PrefixTree
from tests.kernels.parity import DTYPES, Operands, assert_parity, strided
from tests.native.kernels import needs_native

pytestmark = needs_native

# (tokens, heads, head width): the published towers, and sizes around and below the kernels' tiles.
SHAPES = [
    (50, 3, 64), (77, 2, 64), (197, 1, 64), (257, 1, 80), (577, 1, 64), (256, 1, 88), (50, 2, 104),
    (1, 2, 64), (2, 1, 64), (15, 2, 72), (16, 1, 8), (17, 1, 16), (33, 2, 7), (64, 1, 128), (65, 1, 1),
]  # fmt: skip


@pytest.fixture
def draw() -> Operands:
    return Operands(torch.device("cpu"))


def _queries_scaled(qkv: torch.Tensor, heads: int) -> torch.Tensor:
    width = qkv.shape[1] // 3
    qkv[:, :width] *= (width // heads) ** -0.5 * 3
    return qkv


def _assert_attention(name: str, towers: TowerKernels, tensors, *rest, **options) -> torch.Tensor:
    actual = getattr(towers, name)(*tensors, *rest, **options)
    plain = getattr(REFERENCE, name)(*tensors, *rest, **options)
    exact = getattr(REFERENCE, name)(*(t.double() for t in tensors), *rest, **options)
    assert_parity(actual, exact, plain)
    return actual


@pytest.mark.parametrize("causal", [False, True], ids=["dense", "causal"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_equal_lengths(towers, draw, shape, causal) -> None:
    length, heads, head_width = shape
    qkv = draw(2 * length, 3 * heads * head_width, dtype=torch.bfloat16)
    qkv = _queries_scaled(qkv, heads)
    _assert_attention("attention", towers, (qkv,), heads, length=length, causal=causal)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_strided(towers, draw, dtype) -> None:
    qkv = strided(_queries_scaled(draw(100, 3 * 128, dtype=dtype), 2))
    _assert_attention("attention", towers, (qkv,), 2, length=50)


def _offsets(*lengths: int) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_packed_causal_sequences(towers, draw, dtype) -> None:
    lengths = (5, 77, 1, 16, 17, 32, 3)
    qkv = _queries_scaled(draw(sum(lengths), 3 * 128, dtype=dtype), 2)
    out = _assert_attention(
        "attention", towers, (qkv,), 2, cu_seqlens=_offsets(*lengths), causal=True
    )
    alone = towers.attention(qkv[5:82], 2, length=77, causal=True)
    assert torch.equal(out[5:82], alone), "a sequence depends on its neighbours"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_prefix_trees(towers, draw, dtype) -> None:
    """Runs of 6, 3, 1 and 20 rows that continue prefixes of 0, 4, 7 and 6 rows."""
    paths = [
        [*range(6)],
        [0, 1, 2, 3, 6, 7, 8],
        [0, 1, 2, 3, 6, 7, 8, 9],
        [*range(6), *range(10, 30)],
    ]
    tree = PrefixTree(
        _offsets(6, 3, 1, 20),
        _offsets(*map(len, paths)),
        torch.tensor([row for path in paths for row in path], dtype=torch.int32),
    )
    qkv = _queries_scaled(draw(30, 3 * 128, dtype=dtype), 2)
    _assert_attention("tree_attention", towers, (qkv,), 2, tree)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_query_a_sequence(towers, draw, dtype) -> None:
    query, kv = draw(4, 128, dtype=dtype, std=0.3), draw(4 * 50, 256, dtype=dtype)
    _assert_attention("attention_pool", towers, (query, kv), 2, length=50)
    offsets = _offsets(3, 77, 1, 20)
    _assert_attention("attention_pool", towers, (query, kv), 2, cu_seqlens=offsets)
    rows = torch.randint(0, 200, (101,), generator=torch.Generator().manual_seed(0)).to(torch.int32)
    _assert_attention("attention_pool", towers, (query, kv), 2, cu_seqlens=offsets, key_rows=rows)


def test_large_scores_do_not_overflow(towers, draw) -> None:
    qkv = draw(50, 3 * 64)
    qkv[:, :128] *= 30
    _assert_attention("attention", towers, (qkv,), 1, length=50)


def test_a_bad_sequence_keeps_to_itself(towers, draw) -> None:
    qkv = draw(150, 3 * 64, dtype=torch.bfloat16)
    clean = towers.attention(qkv, 1, length=50)
    qkv[50:100] = torch.nan
    spoilt = towers.attention(qkv, 1, length=50)
    assert spoilt[50:100].isnan().all()
    assert torch.equal(spoilt[:50], clean[:50])
    assert torch.equal(spoilt[100:], clean[100:])


def test_threads_do_not_change_a_bit(towers, draw) -> None:
    qkv, before = draw(150, 3 * 128, dtype=torch.bfloat16), torch.get_num_threads()
    torch.set_num_threads(1)
    one = towers.attention(qkv, 2, length=50)
    torch.set_num_threads(3)
    three = towers.attention(qkv, 2, length=50)
    torch.set_num_threads(before)
    assert torch.equal(one, three)


def test_nothing_to_attend_to(towers) -> None:
    assert towers.attention(torch.empty(0, 192), 1, length=50).shape == (0, 64)
    assert towers.attention(torch.empty(0, 192), 1, cu_seqlens=_offsets()).shape == (0, 64)
    assert towers.attention_pool(torch.empty(0, 64), torch.empty(0, 128), 1, length=50).shape == (
        0,
        64,
    )


def test_what_cannot_be_read_is_refused(towers) -> None:
    with pytest.raises(InputError, match=r"reads contiguous int32 offsets, got torch.int64"):
        towers.attention(torch.zeros(4, 192), 1, cu_seqlens=torch.tensor([0, 4]))
    with pytest.raises(InputError, match=r"attention_pool reads \(rows, 128\)"):
        towers.attention_pool(torch.zeros(4, 64), torch.zeros(4, 192), 1, length=1)
