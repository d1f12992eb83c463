"""similarity, log_sum_exp and top_k against float64: dtypes, odd sizes, ties, rounds, nothing M x N."""

from __future__ import annotations

import pytest
import torch

from clipfast.backends import reference
from clipfast.errors import ConfigurationError
from clipfast.kernels.hardware import Hardware
from clipfast.kernels.similarity import log_sum_exp, similarity
from clipfast.kernels.top_k import MAX_KEPT, top_k
from tests.kernels.parity import DTYPES, Canary, Operands, assert_parity, strided

# Rows of one number are all 1 or -1 in plain torch, whose error of 0 is no measure: rows have three or more.
SIZES = [(1, 1, 3), (7, 130, 65), (70, 501, 100), (65, 64, 512), (3, 300, 768), (5, 2052, 64)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_similarity(operands: Operands, sizes: tuple[int, int, int], dtype: torch.dtype) -> None:
    rows, keys, width = sizes
    queries, gallery = operands(rows, width, dtype=dtype), operands(keys, width, dtype=dtype)
    queries = strided(queries * 3)
    p = similarity(queries, gallery, 100.0)
    exact = reference.similarity(queries.double(), gallery.double(), 100.0)
    assert_parity(p, exact, reference.similarity(queries, gallery, 100.0))
    assert torch.allclose(p.sum(1), torch.ones_like(p.sum(1)), atol=1e-5)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_log_sum_exp(operands: Operands, sizes: tuple[int, int, int], dtype: torch.dtype) -> None:
    rows, keys, width = sizes
    queries, gallery = operands(rows, width, dtype=dtype), operands(keys, width, dtype=dtype)
    of_rows, of_columns = log_sum_exp(queries, strided(gallery), 100.0)
    exact = reference.log_sum_exp(queries.double(), gallery.double(), 100.0)
    plain = reference.log_sum_exp(queries, gallery, 100.0)
    assert_parity(of_rows, exact[0], plain[0])
    assert_parity(of_columns, exact[1], plain[1])


def test_columns_of_many_queries_are_summed_in_pieces(
    operands: Operands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipfast.kernels.similarity.COLUMN_TILES", 1)
    queries, gallery = operands(150, 32), operands(70, 32)
    exact = reference.log_sum_exp(queries.double(), gallery.double(), 100.0)
    plain = reference.log_sum_exp(queries, gallery, 100.0)
    for part, truth, of_torch in zip(
        log_sum_exp(queries, gallery, 100.0), exact, plain, strict=True
    ):
        assert_parity(part, truth, of_torch)


@pytest.mark.parametrize("k", [1, 10])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_top_k(operands: Operands, k: int, dtype: torch.dtype) -> None:
    queries, gallery = operands(70, 100, dtype=dtype), operands(501, 100, dtype=dtype)
    scores, indices = top_k(queries, strided(gallery), k)
    exact, exact_indices = reference.top_k(queries.double(), gallery.double(), k)
    assert_parity(scores, exact, reference.top_k(queries, gallery, k)[0])
    assert torch.equal(indices, exact_indices)


def test_more_than_one_round(operands: Operands) -> None:
    queries, gallery = operands(3, 16), operands(MAX_KEPT + 40, 16)
    scores, indices = top_k(queries, gallery, MAX_KEPT + 40)
    exact, exact_indices = reference.top_k(queries.double(), gallery.double(), MAX_KEPT + 40)
    assert_parity(scores, exact, reference.top_k(queries, gallery, MAX_KEPT + 40)[0])
    assert torch.equal(indices, exact_indices)


def test_ties_go_to_the_lower_index(operands: Operands) -> None:
    queries, gallery = operands(2, 32), operands(300, 32)
    gallery[[3, 150, 299]] = queries[0]
    gallery[10] = 0.0
    gallery[250] = -0.0
    _, indices = top_k(queries, gallery, 3)
    assert indices[0].tolist() == [3, 150, 299]
    _, indices = top_k(torch.zeros_like(queries), gallery, 300)
    assert indices[0].tolist() == list(range(300))


def test_rows_of_zeros_have_cosine_zero(operands: Operands) -> None:
    queries, gallery = operands(2, 32), operands(5, 32)
    queries[1] = 0.0
    gallery[2] = 0.0
    scores, _ = top_k(queries, gallery, 5)
    assert scores[1].tolist() == [0.0] * 5
    assert torch.allclose(similarity(queries, gallery, 100.0)[1], torch.full((5,), 0.2).to(queries))


@pytest.mark.filterwarnings("ignore:invalid value")
def test_failed_rows_never_match(operands: Operands) -> None:
    """Rows of NaN and rows with an infinity: their cosines are NaN and rank below every number."""
    queries, gallery = operands(3, 32), operands(300, 32)
    gallery[[0, 200]] = torch.nan
    gallery[7, 5] = torch.inf
    gallery[9, 5] = -torch.inf
    queries[1] = torch.nan
    scores, indices = top_k(queries, gallery, 300)
    exact, exact_indices = reference.top_k(queries.double(), gallery.double(), 300)
    assert torch.equal(indices, exact_indices)
    assert indices[0, -4:].tolist() == [0, 7, 9, 200]
    assert torch.equal(scores.isnan(), exact.isnan())
    assert scores[1].isnan().all()
    assert_parity(scores[[0, 2], :296], exact[[0, 2], :296], exact[[0, 2], :296].float())


def test_failed_rows_spoil_only_what_they_enter(operands: Operands) -> None:
    queries, gallery = operands(70, 32), operands(40, 32)
    queries[66] = torch.nan
    rows, columns = log_sum_exp(queries, gallery, 100.0)
    assert rows.isnan().nonzero().tolist() == [[66]]
    assert columns.isnan().all()
    p = similarity(queries, gallery, 100.0)
    assert p.isnan().any(1).nonzero().tolist() == [[66]]


def test_a_large_scale_does_not_underflow(operands: Operands) -> None:
    queries, gallery = operands(2, 64), operands(40, 64)
    for scale in (0.0, 1e4, -1e4):
        p = similarity(queries, gallery, scale)
        exact = reference.similarity(queries.double(), gallery.double(), scale)
        assert_parity(p, exact, reference.similarity(queries, gallery, scale))


def test_slices_merge_in_a_fixed_order(operands: Operands) -> None:
    queries, gallery = operands(5, 64), operands(700, 64)
    for programs in (1, 4, 100):
        hardware = Hardware(80, programs)
        exact = reference.similarity(queries.double(), gallery.double(), 100.0)
        p = similarity(queries, gallery, 100.0, hardware=hardware)
        assert_parity(p, exact, reference.similarity(queries, gallery, 100.0))
        assert torch.equal(p, similarity(queries, gallery, 100.0, hardware=hardware))
        _, indices = top_k(queries, gallery, 7, hardware=hardware)
        assert torch.equal(indices, reference.top_k(queries.double(), gallery.double(), 7)[1])


def test_writes_its_output_and_nothing_else(operands: Operands, device: torch.device) -> None:
    queries, gallery = operands(5, 33), operands(70, 33)
    canary = Canary((5, 70), torch.float32, device)
    p = similarity(queries, gallery, 100.0, out=canary.out)
    canary.assert_alive()
    assert torch.equal(p, similarity(queries, gallery, 100.0))


def test_nothing_to_compare(operands: Operands) -> None:
    none, some = operands(0, 32), operands(4, 32)
    assert similarity(none, some, 1.0).shape == (0, 4)
    assert similarity(some, none, 1.0).shape == (4, 0)
    scores, indices = top_k(none, some, 2)
    assert scores.shape == indices.shape == (0, 2)
    rows, columns = log_sum_exp(some, none, 1.0)
    assert rows.tolist() == [-torch.inf] * 4
    assert columns.shape == (0,)


def test_refuses_in_words(operands: Operands) -> None:
    queries, gallery = operands(2, 32), operands(5, 32)
    with pytest.raises(ConfigurationError, match="k=6; expected 1 to 5"):
        top_k(queries, gallery, 6)
    with pytest.raises(ConfigurationError, match=r"gallery has shape \(5, 31\)"):
        similarity(queries, gallery[:, 1:], 1.0)
    with pytest.raises(ConfigurationError, match=r"expected the queries', torch\.float32"):
        log_sum_exp(queries, gallery.half(), 1.0)
