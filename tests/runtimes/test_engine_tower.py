"""How batches meet an engine's profiles, and what is said where there is no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clipfast.errors import DependencyError, UnsupportedError
from clipfast.runtimes.engine_tower import EngineTower, bucket_of, chunks, profile_of
from tests.export.graphs import describe
from tests.runtimes.plans import write_engine
from tests.weights import tiny

ONE = ((1, 8, 64),)
TWO = ((1, 8, 32), (32, 128, 200))
LATE = ((4, 8, 12),)


@pytest.mark.parametrize(
    ("rows", "profiles", "bucket"),
    [
        (1, ONE, 1),
        (3, ONE, 4),
        (33, ONE, 64),
        (64, ONE, 64),
        (1, LATE, 4),
        (9, LATE, 12),
        (33, TWO, 64),
        (129, TWO, 200),
    ],
)
def test_bucket(rows: int, profiles, bucket: int) -> None:
    assert bucket_of(rows, profiles) == bucket


@pytest.mark.parametrize("profiles", [ONE, TWO, LATE])
@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 200, 201, 1000])
def test_chunks_cover_every_row_once_and_fit(count: int, profiles) -> None:
    pieces = list(chunks(count, profiles))
    assert [row for start, stop, _ in pieces for row in range(start, stop)] == list(range(count))
    for start, stop, bucket in pieces:
        assert stop - start <= bucket
        low, _, high = profiles[profile_of(bucket, profiles)]
        assert low <= bucket <= high


def test_the_profile_whose_usual_batch_is_nearest() -> None:
    assert [profile_of(batch, TWO) for batch in (1, 32, 64)] == [0, 0, 1]


def test_an_engine_needs_a_cuda_device(tmp_path: Path) -> None:
    path = tmp_path / "image.engine"
    write_engine(path, describe(tiny(), "image", "fp16", "tensorrt"))
    with pytest.raises(UnsupportedError, match="runs on a CUDA device, got cpu"):
        EngineTower(path, torch.device("cpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_tensorrt_the_error_says_how_to_get_it(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    if __import__("importlib.util").util.find_spec("tensorrt"):
        pytest.skip("TensorRT is installed")
    path = tmp_path / "image.engine"
    write_engine(path, describe(tiny(), "image", "fp16", "tensorrt"))
    with pytest.raises(DependencyError, match="pip install tensorrt-cu13"):
        EngineTower(path, torch.device("cuda", 0))
