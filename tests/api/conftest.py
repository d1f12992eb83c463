"""A tiny random model in a directory, loaded once."""

from __future__ import annotations

from pathlib import Path

import pytest

import clipfast
from tests.weights import random_weights, save_as, tiny


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny()
    folder = tmp_path_factory.mktemp("tiny")
    return save_as("open_clip_directory", random_weights(config, seed=0), config, folder)


@pytest.fixture(scope="session")
def model(tiny_directory: Path) -> clipfast.Model:
    return clipfast.load(tiny_directory, precision="fp32", threads=2)
