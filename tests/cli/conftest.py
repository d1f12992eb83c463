"""A small model on disk and a few images for the commands to work on."""

from __future__ import annotations

import signal

import pytest
import torch
from PIL import Image

from tests.weights import random_weights, save_as, tiny

# A shell that starts the tests in its background has them ignore SIGINT, and the commands would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    config = tiny()
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    return str(save_as("open_clip_directory", random_weights(config), config, folder))


@pytest.fixture
def image_folder(tmp_path):
    """a.png, b.jpg, sub/c.png, notes.txt and broken.jpg."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    generator = torch.Generator().manual_seed(1)
    for name in ("a.png", "b.jpg", "sub/c.png"):
        pixels = torch.randint(256, (70, 90, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    (folder / "broken.jpg").write_bytes((folder / "b.jpg").read_bytes()[:200])
    return folder
