"""The median of paired ratios with an interval that assumes nothing about their distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from statistics import median


@dataclass(frozen=True)
class Ratio:
    """The median of pairs ratios; with probability `coverage` the true median lies in [low, high]."""

    median: float
    low: float
    high: float
    coverage: float
    pairs: int


def paired_ratio(ours: Sequence[float], theirs: Sequence[float], confidence: float = 0.95) -> Ratio:
    """How many times faster ours is: the ratios theirs / ours of seconds measured in turn.

    The interval is made of two order statistics: the median is below the i-th smallest of n with probability
    P(Binomial(n, 1/2) < i). The narrowest symmetric pair with at least `confidence` is taken; when n is too small for
    any, the extremes are, and `coverage` says what they are worth.

    Args:
        ours, theirs: seconds of the same pairs, at least one.
    Source: Conover, Practical Nonparametric Statistics, section 3.2.
    """
    ratios = sorted(their / our for our, their in zip(ours, theirs, strict=True))
    n = len(ratios)
    depth = 1
    while depth < (n + 1) // 2 and _coverage(n, depth + 1) >= confidence:
        depth += 1
    return Ratio(median(ratios), ratios[depth - 1], ratios[n - depth], _coverage(n, depth), n)


def _coverage(n: int, depth: int) -> float:
    """Of the interval from the depth-th smallest to the depth-th largest of n."""
    return 1 - 2 * sum(comb(n, i) for i in range(depth)) / 2**n
