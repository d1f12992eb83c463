"""A small model, and folders of drawn images, each unlike the others."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import clipfast
from tests.weights import random_weights, save_as, tiny


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    config = tiny()
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    return str(save_as("open_clip_directory", random_weights(config), config, folder))


@pytest.fixture(scope="session")
def model(model_folder):
    return clipfast.load(model_folder, precision="fp32")


def draw(folder, count, *, first=0, side=48):
    """JPEG files 000000.jpg... of `count` images; image k is the same whoever draws it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        blocks = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(blocks).resize((side, side * 3 // 4), Image.Resampling.BILINEAR)
        image.save(folder / f"{number:06d}.jpg", quality=85)
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """60 images; not to be changed."""
    return draw(tmp_path_factory.mktemp("photos") / "a", 60)


def contents(output):
    """Every file of an output by name, but for who made it and when."""
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.parent.name not in {"done", "locks"}
    }
