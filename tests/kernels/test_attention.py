"""attention and tree_attention against float64: CLIP's lengths and head dims, packed texts, prefix trees."""

from __future__ import annotations

import pytest
import torch

from clipfast.backends.reference import attention as reference
from clipfast.backends.reference import tree_attention as reference_tree
from clipfast.errors import ConfigurationError
from clipfast.kernels.attention import attention, tree_attention
from clipfast.kernels.hardware import Hardware
from clipfast.ops import PrefixTree
from tests.kernels.parity import DTYPES, Canary, Operands, assert_parity, strided

FP16 = torch.float16
HEADS = 2


def check(
    qkv: torch.Tensor, heads: int, hardware: Hardware | None = None, **options: object
) -> None:
    out = attention(qkv, heads, hardware=hardware, **options)
    assert_parity(out, reference(qkv.double(), heads, **options), reference(qkv, heads, **options))


@pytest.mark.parametrize("length", [1, 16, 50, 64, 77, 197, 257, 577], ids="L{}".format)
def test_lengths(operands: Operands, length: int) -> None:
    heads, sequences = (1, 1) if length > 100 else (HEADS, 2)
    check(operands(sequences * length, 3 * heads * 64, dtype=FP16), heads, length=length)


@pytest.mark.parametrize("head_dim", [16, 32, 48, 64, 72, 80, 88, 104, 128], ids="Dh{}".format)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_head_dims(operands: Operands, head_dim: int, dtype: torch.dtype) -> None:
    check(operands(50, 3 * HEADS * head_dim, dtype=dtype), HEADS, length=50)


@pytest.mark.parametrize("head_dim", [72, 104])
def test_split_head_dims_over_several_blocks(
    operands: Operands, hardware: Hardware, head_dim: int
) -> None:
    check(operands(197, 3 * head_dim, dtype=FP16), 1, hardware, length=197)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_packed_texts(operands: Operands, dtype: torch.dtype, causal: bool) -> None:
    lengths = torch.tensor([1, 16, 9, 77, 2, 33, 17])
    cu = torch.cat([torch.zeros(1), lengths.cumsum(0)]).to(operands.device, torch.int32)
    qkv = operands(int(cu[-1]), 3 * HEADS * 64, dtype=dtype)
    check(qkv, HEADS, cu_seqlens=cu, causal=causal)


@pytest.mark.parametrize("length", [5, 77])
def test_padded_texts(operands: Operands, length: int) -> None:
    check(operands(2 * length, 3 * HEADS * 64, dtype=FP16), HEADS, length=length, causal=True)


def tree(device: torch.device) -> PrefixTree:
    """A root of 20 rows; 5 rows and 40 rows after its first 17; 3 rows after all of the 40; 1 row alone."""
    root, stem = list(range(20)), list(range(17))
    long = stem + list(range(25, 65))
    keys = [root, [*stem, *range(20, 25)], long, [*long, *range(65, 68)], [68]]
    queries = [20, 5, 40, 3, 1]

    def cumulated(counts: list[int]) -> torch.Tensor:
        return torch.tensor([0, *counts]).cumsum(0).to(device, torch.int32)

    rows = torch.tensor([row for run in keys for row in run], dtype=torch.int32, device=device)
    return PrefixTree(cumulated(queries), cumulated([len(run) for run in keys]), rows)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head_dim", [64, 72])
def test_prefix_trees(operands: Operands, dtype: torch.dtype, head_dim: int) -> None:
    runs = tree(operands.device)
    qkv = operands(69, 3 * HEADS * head_dim, dtype=dtype)
    out = tree_attention(qkv, HEADS, runs.cu_queries, runs.cu_keys, runs.key_rows)
    exact = reference_tree(qkv.double(), HEADS, runs)
    assert_parity(out, exact, reference_tree(qkv, HEADS, runs))


def test_scores_far_apart_stay_finite(operands: Operands) -> None:
    """Differences of 10^4 between scores, all large and negative in one row."""
    qkv = operands(50, 3 * 64, dtype=FP16)
    qkv[:, :128] *= 12.0
    qkv[7, :64] = -qkv[:, 64:128].mean(0) * 50
    check(qkv, 1, length=50)


def test_strided_rows(operands: Operands, hardware: Hardware) -> None:
    check(strided(operands(100, 3 * HEADS * 64, dtype=FP16)), HEADS, hardware, length=50)


def test_writes_its_output_and_nothing_else(
    operands: Operands, hardware: Hardware, device: torch.device
) -> None:
    qkv = operands(2 * 19, 3 * HEADS * 72, dtype=FP16)
    canary = Canary((38, HEADS * 72), FP16, device)
    out = attention(qkv, HEADS, length=19, out=canary.out, hardware=hardware)
    canary.assert_alive()
    assert torch.equal(out, attention(qkv, HEADS, length=19, hardware=hardware))


def test_packed_texts_and_trees_write_their_output_and_nothing_else(
    operands: Operands, device: torch.device
) -> None:
    runs = tree(device)
    qkv = strided(operands(69, 3 * HEADS * 72, dtype=FP16))
    canary = Canary((69, HEADS * 72), FP16, device)
    which = {"cu_seqlens": runs.cu_queries, "causal": True}
    out = attention(qkv, HEADS, **which, out=canary.out)
    canary.assert_alive()
    assert torch.equal(out, attention(qkv, HEADS, **which))
    canary = Canary((69, HEADS * 72), FP16, device)
    parts = (runs.cu_queries, runs.cu_keys, runs.key_rows)
    out = tree_attention(qkv, HEADS, *parts, out=canary.out)
    canary.assert_alive()
    exact = reference_tree(qkv.double(), HEADS, runs)
    assert_parity(out, exact, reference_tree(qkv, HEADS, runs))


@pytest.mark.parametrize("packed", [False, True], ids=["dense", "packed"])
def test_a_sequence_does_not_see_its_neighbours(operands: Operands, packed: bool) -> None:
    """Not even neighbours of NaN."""
    qkv = operands(3 * 23, 3 * HEADS * 72, dtype=FP16)
    cu = torch.arange(0, 70, 23, dtype=torch.int32, device=operands.device)
    which = {"cu_seqlens": cu, "causal": True} if packed else {"length": 23}
    clean = attention(qkv, HEADS, **which)
    assert torch.equal(clean, attention(qkv, HEADS, **which))
    qkv[:23] = torch.nan
    qkv[46:] = torch.nan
    assert torch.equal(attention(qkv, HEADS, **which)[23:46], clean[23:46])


def test_sequences_without_rows_take_nothing_from_the_others(operands: Operands) -> None:
    """Rows that belong to no sequence, at the end, are left alone."""
    qkv = operands(40, 3 * HEADS * 64, dtype=FP16)
    qkv[33:] = torch.nan
    whole, gaps = (
        torch.tensor(cu, dtype=torch.int32, device=operands.device)
        for cu in ([0, 9, 33], [0, 0, 9, 9, 33, 33, 33])
    )
    found = attention(qkv, HEADS, cu_seqlens=gaps, causal=True)[:33]
    assert torch.equal(found, attention(qkv, HEADS, cu_seqlens=whole, causal=True)[:33])


def test_no_sequences(operands: Operands) -> None:
    empty = operands(0, 3 * 64, dtype=FP16)
    none = torch.zeros(1, dtype=torch.int32, device=operands.device)
    assert attention(empty, 1, length=50).shape == (0, 64)
    assert attention(empty, 1, cu_seqlens=none, causal=True).shape == (0, 64)
    assert tree_attention(empty, 1, none, none, none[:0]).shape == (0, 64)


def test_refuses_in_words(operands: Operands) -> None:
    qkv = operands(10, 3 * 64)
    with pytest.raises(ConfigurationError, match="expected exactly one of them"):
        attention(qkv, 1)
    with pytest.raises(ConfigurationError, match="10 rows; expected a multiple of length=3"):
        attention(qkv, 1, length=3)
    with pytest.raises(ConfigurationError, match="192 columns; expected 3 x 5 heads of 16 to 128"):
        attention(qkv, 5, length=5)
    with pytest.raises(ConfigurationError, match="expected 3 x 8 heads of 16 to 128"):
        attention(qkv, 8, length=5)
    cu = torch.zeros(3, dtype=torch.int32, device=operands.device)
    with pytest.raises(ConfigurationError, match=r"cu_keys has shape \(2,\)"):
        tree_attention(qkv, 1, cu, cu[:2], cu)
