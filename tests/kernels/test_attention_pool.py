"""attention_pool against float64: images, packed texts, rows that several texts share, refusals."""

from __future__ import annotations

import pytest
import torch

from clipfast.backends.reference import attention_pool as reference
from clipfast.errors import ConfigurationError
from clipfast.kernels.attention_pool import attention_pool
from tests.kernels.parity import DTYPES, Canary, Operands, assert_parity, strided

HEADS = 2


def check(query: torch.Tensor, kv: torch.Tensor, **options: object) -> None:
    out = attention_pool(query, kv, HEADS, **options)
    exact = reference(query.double(), kv.double(), HEADS, **options)
    assert_parity(out, exact, reference(query, kv, HEADS, **options))


@pytest.mark.parametrize("length", [1, 50, 197, 257, 577], ids="L{}".format)
def test_lengths(operands: Operands, length: int) -> None:
    query = operands(3, HEADS * 64, dtype=torch.float16)
    check(query, operands(3 * length, 2 * HEADS * 64, dtype=torch.float16), length=length)


@pytest.mark.parametrize("head_dim", [16, 64, 72, 80, 88, 104], ids="Dh{}".format)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_head_dims(operands: Operands, head_dim: int, dtype: torch.dtype) -> None:
    query = operands(2, HEADS * head_dim, dtype=dtype)
    check(query, operands(100, 2 * HEADS * head_dim, dtype=dtype), length=50)


def test_packed_texts_and_shared_rows(operands: Operands) -> None:
    cu = torch.tensor([0, 1, 34, 40, 117], dtype=torch.int32, device=operands.device)
    query = strided(operands(4, HEADS * 64, dtype=torch.bfloat16))
    kv = strided(operands(117, 2 * HEADS * 64, dtype=torch.bfloat16))
    check(query, kv, cu_seqlens=cu)
    key_rows = (torch.arange(117, device=operands.device) * 7 % 60).int()
    check(query, kv[:60], cu_seqlens=cu, key_rows=key_rows)


def test_writes_its_output_and_nothing_else(operands: Operands, device: torch.device) -> None:
    query, kv = operands(3, HEADS * 72), operands(3 * 19, 2 * HEADS * 72)
    canary = Canary((3, HEADS * 72), torch.float32, device)
    out = attention_pool(query, kv, HEADS, length=19, out=canary.out)
    canary.assert_alive()
    assert torch.equal(out, attention_pool(query, kv, HEADS, length=19))


def test_a_sequence_does_not_see_its_neighbours(operands: Operands) -> None:
    query, kv = operands(3, HEADS * 64), operands(3 * 19, 2 * HEADS * 64)
    clean = attention_pool(query, kv, HEADS, length=19)
    kv[:19] = torch.nan
    kv[38:] = torch.nan
    assert torch.equal(attention_pool(query, kv, HEADS, length=19)[1], clean[1])


def test_sequences_without_rows_take_nothing_from_the_others(operands: Operands) -> None:
    query, kv = operands(5, HEADS * 64), operands(33, 2 * HEADS * 64)
    gaps = torch.tensor([0, 0, 9, 9, 33, 33], dtype=torch.int32, device=operands.device)
    found = attention_pool(query, kv, HEADS, cu_seqlens=gaps)[[1, 3]]
    whole = attention_pool(query[[1, 3]], kv, HEADS, cu_seqlens=gaps[[0, 2, 4]])
    assert torch.equal(found, whole)


def test_no_sequences(operands: Operands) -> None:
    out = attention_pool(operands(0, 128), operands(0, 256), HEADS, length=50)
    assert out.shape == (0, 128)


def test_refuses_in_words(operands: Operands) -> None:
    query, kv = operands(3, 128), operands(30, 256)
    with pytest.raises(ConfigurationError, match="expected exactly one of them"):
        attention_pool(query, kv, HEADS)
    with pytest.raises(
        ConfigurationError, match=r"query has shape \(3, 128\); expected 6 sequences"
    ):
        attention_pool(query, kv, HEADS, length=5)
    with pytest.raises(ConfigurationError, match="of 3 equal heads"):
        attention_pool(query, kv, 3, length=10)
    with pytest.raises(ConfigurationError, match=r"kv has shape \(30, 128\)"):
        attention_pool(query, kv[:, :128], HEADS, length=10)
