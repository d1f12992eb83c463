"""Queries/s: probabilities of 1000 classes; the 10 nearest of a million rows, where memory is the limit."""

import pytest

from benchmarks.throughput import OUR_SECONDS

pytestmark = pytest.mark.benchmark(timer=OUR_SECONDS)


def test_similarity(throughput, cell):
    throughput(cell)


def test_top_k(throughput, cell):
    throughput(cell)
