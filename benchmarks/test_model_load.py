"""Seconds from a file on disk (in the page cache) to a model that can encode, libraries imported already."""

import pytest

from benchmarks.throughput import OUR_SECONDS

pytestmark = pytest.mark.benchmark(timer=OUR_SECONDS)


def test_model_load(throughput, cell):
    throughput(cell)
