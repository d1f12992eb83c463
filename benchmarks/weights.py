"""Random full-size weights, the same for everyone: their outputs mean nothing, their cost and rounding do."""

from __future__ import annotations

from pathlib import Path

from benchmarks.work import MODELS
from tests.weights import random_weights, save_as


def write_weights(model: str, folder: Path) -> str:
    """The folder, in open_clip's layout, of the model's weights, which are the same on every machine."""
    target = folder / model
    if not target.exists():
        config = MODELS[model]
        save_as("open_clip_directory", random_weights(config, seed=0), config, target)
    return str(target)
