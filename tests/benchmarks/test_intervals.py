from __future__ import annotations

import numpy as np
import pytest

from benchmarks.intervals import paired_ratio


def test_twenty_pairs_take_the_sixth_and_the_fifteenth():
    """The textbook's 95% interval of a median of 20: coverage 0.9586."""
    ratio = paired_ratio([1.0] * 20, [float(i) for i in range(1, 21)])
    assert (ratio.low, ratio.median, ratio.high) == (6, 10.5, 15)
    assert ratio.coverage == pytest.approx(0.9586, abs=5e-5)
    assert ratio.pairs == 20


def test_faster_is_above_one():
    ratio = paired_ratio([1.0, 2.0, 4.0], [2.0, 4.0, 8.0])
    assert ratio.median == ratio.low == ratio.high == 2


@pytest.mark.parametrize(
    ("pairs", "coverage"), [(1, 0.0), (2, 0.5), (3, 0.75), (5, 0.9375), (6, 0.96875)]
)
def test_few_pairs_give_their_extremes_and_say_what_that_is_worth(pairs, coverage):
    ratio = paired_ratio([1.0] * pairs, [float(i) for i in range(pairs)])
    assert (ratio.low, ratio.high) == (0, pairs - 1)
    assert ratio.coverage == coverage


@pytest.mark.parametrize("pairs", [9, 20, 41])
def test_the_interval_covers_the_true_median_as_often_as_it_says(pairs):
    random = np.random.default_rng(pairs)
    covered, coverage = 0, 0.0
    for _ in range(2000):
        ratio = paired_ratio([1.0] * pairs, np.exp(random.standard_normal(pairs)).tolist())
        covered += ratio.low <= 1.0 <= ratio.high
        coverage = ratio.coverage
    assert coverage >= 0.95
    assert covered / 2000 == pytest.approx(coverage, abs=0.02)
