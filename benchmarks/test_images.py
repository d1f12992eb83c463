"""Images/s of pixels that need no resizing: uint8 to unit rows for us, ready-made floats to unit rows for peers."""

import pytest

from benchmarks.throughput import OUR_SECONDS

pytestmark = pytest.mark.benchmark(timer=OUR_SECONDS)


def test_images(throughput, cell):
    throughput(cell)
