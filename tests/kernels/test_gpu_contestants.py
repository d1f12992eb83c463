"""Who takes part in a cell of `make gpu`, where one of ours cannot."""

from __future__ import annotations

import time

import pytest
import torch

from benchmarks.gpu import contestants
from benchmarks.gpu.cell import Cell
from benchmarks.gpu.contestants import Contestants
from benchmarks.gpu.context import Context
from benchmarks.gpu.plan import PEERS, Choice
from benchmarks.work import pixels


@pytest.fixture
def context() -> Context:
    return Context(torch.device("cpu"), time.monotonic() + 60)


def test_a_precision_that_cannot_be_made_costs_the_others_nothing(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise RuntimeError("no such codes")

    monkeypatch.setattr(contestants, "parameters_in_8_bits", refused)
    without = ("clipfast fp16", "transformers", "timm", "open_clip")
    entrants = Contestants(Choice("tiny", (1,), ("fp16", "int8"), without), context)
    calls = entrants.images(pixels(1, 64)).calls
    assert set(calls) == {"clipfast int8", "torch eager"}
    exact = entrants.exact_images(pixels(1, 64))
    rows = Cell(context, "tiny batch 1", exact, lambda *_: {}).contest(calls)
    ours, eager = rows
    assert (ours["ok"], ours["said"]) == (False, "RuntimeError: no such codes")
    assert eager["ok"]


def test_what_has_no_8_bit_form_is_not_measured(context: Context) -> None:
    entrants = Contestants(Choice("tiny-resnet", (1,), ("fp8",), PEERS), context)
    calls = entrants.images(pixels(1, 64)).calls
    assert calls == {"clipfast fp8": "convolutions have no 8-bit form"}
    assert not entrants.has_fp8
