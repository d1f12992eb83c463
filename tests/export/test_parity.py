"""The gate sees what is wrong: in one row, at one batch size, or not finite."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from clipfast.errors import ParityError
from clipfast.export.parity import Parity, batches_to_check, measure

ROWS = torch.arange(20).float()[:, None] + torch.randn(20, 6, generator=torch.manual_seed(0))
EXPECTED = F.normalize(ROWS @ torch.randn(6, 8, generator=torch.manual_seed(1)))


def exact(rows: torch.Tensor) -> torch.Tensor:
    places = (rows[:, None] == ROWS).all(dim=2).int().argmax(dim=1)
    return EXPECTED[places]


def parity(run, gate: float = 0.999) -> Parity:
    measured = measure(run, ROWS, EXPECTED, [1, 7, 8, 64])
    return Parity("image", "fp16", gate, "compared", "samples", 20, *measured)


def test_equal_rows_pass() -> None:
    result = parity(exact)
    assert result.passed
    assert [entry.batch for entry in result.batches] == [1, 7, 8, 64]
    assert result.cosine_min == pytest.approx(1)
    assert result.neighbours == 1
    result.require("kept")


def test_one_wrong_row_of_all_fails() -> None:
    def run(rows: torch.Tensor) -> torch.Tensor:
        out = exact(rows)
        out[(rows == ROWS[13]).all(dim=1)] *= -1
        return out

    result = parity(run)
    assert result.cosine_min == pytest.approx(-1)
    with pytest.raises(ParityError, match=r"image tower, fp16, batch 64: cosine -1\.0"):
        result.require("nothing was written")


def test_a_batch_baked_into_the_graph_fails_at_the_odd_batch() -> None:
    def run(rows: torch.Tensor) -> torch.Tensor:
        out = exact(rows)
        return out if len(rows) % 2 == 0 or len(rows) == 1 else out.roll(1, dims=0)

    with pytest.raises(ParityError, match="batch 7"):
        parity(run).require("")


def test_not_a_number_fails_whatever_the_cosine() -> None:
    def run(rows: torch.Tensor) -> torch.Tensor:
        out = exact(rows)
        out[0, 0] = torch.nan
        return out

    result = parity(run, gate=-1)
    assert not result.passed
    assert max(entry.non_finite for entry in result.batches) == 1


def test_neighbours_count_agreement_of_ranks() -> None:
    generator = torch.Generator().manual_seed(2)
    scrambled = F.normalize(torch.randn(20, 8, generator=generator))
    _, neighbours, _ = measure(lambda rows: scrambled[: len(rows)], ROWS, EXPECTED, [20])
    assert neighbours < 0.5


def test_centred_cosine_sees_what_a_shared_direction_hides() -> None:
    shared = torch.zeros(8)
    shared[0] = 50
    generator = torch.Generator().manual_seed(3)
    expected = F.normalize(EXPECTED + shared)
    lost = F.normalize(torch.randn(20, 8, generator=generator) * 0.1 + shared)
    batches, _, centred = measure(lambda rows: lost[: len(rows)], ROWS, expected, [20])
    assert batches[0].cosine_min > 0.999
    assert centred < 0.5


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ((1, 8, 64), [1, 7, 8, 64]),
        ((1, 7, 8), [1, 7, 8]),
        ((1, 1, 1), [1]),
        ((4, 4, 4), [4]),
        ((2, 16, 32), [2, 15, 16, 32]),
    ],
)
def test_batches(batch, expected) -> None:
    assert batches_to_check(batch) == expected
