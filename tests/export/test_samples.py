"""The inputs that exports are verified with: the packaged ones are the demo's, a folder's are the user's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipfast.errors import ConfigurationError
from clipfast.export.samples import FOLDER, packaged_samples, read_samples
from tests.export.draw_samples import COUNT, draw_gallery, draw_sheet, write_prompts
from tests.weights import tiny


def test_packaged_samples_are_drawn_like_the_demos_images() -> None:
    gallery = draw_gallery(COUNT)
    with Image.open(FOLDER / "images.png") as stored:
        difference = np.asarray(stored, np.int16) - np.asarray(draw_sheet(gallery), np.int16)
    # Another Pillow may draw an edge differently; after a change of the demo: python -m tests.export.draw_samples
    assert np.abs(difference).mean() < 1
    assert (FOLDER / "prompts.txt").read_text() == write_prompts(gallery)


def test_rows_are_what_the_towers_read() -> None:
    samples, config = packaged_samples(), tiny()
    pixels = samples.rows("image", config, "uint8")
    assert (pixels.shape, str(pixels.dtype)) == ((40, 3, 64, 64), "torch.uint8")
    normalised = samples.rows("image", config, "float")
    restored = normalised[0, 0] * config.preprocess.std[0] + config.preprocess.mean[0]
    assert np.allclose(restored * 255, pixels[0, 0], atol=1e-3)
    ids = samples.rows("text", config, "uint8")
    assert ids.shape == (40, 77)
    ends = (ids == config.text.eot_id).int().argmax(dim=1)
    assert len(ends.unique()) > 5  # texts end at many positions
    halves = samples.every_other(0), samples.every_other(1)
    assert set(halves[0].texts).isdisjoint(halves[1].texts)


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), (200, 10, 10)).save(tmp_path / "red.png")
    (tmp_path / "nested").mkdir()
    Image.new("RGB", (20, 30), (10, 10, 200)).save(tmp_path / "nested" / "blue.jpg")
    (tmp_path / "prompts.txt").write_text("a red tile\n\n  a blue tile  \n")
    samples = read_samples(tmp_path)
    assert samples.texts == ("a red tile", "a blue tile")
    assert samples.rows("image", tiny(), "uint8").shape == (2, 3, 64, 64)
    assert samples.origin == str(tmp_path)


def test_a_folder_without_texts_takes_the_packaged_ones(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "black.png")
    assert read_samples(tmp_path).texts == packaged_samples().texts


def test_an_empty_or_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no image file"):
        read_samples(tmp_path)
    with pytest.raises(ConfigurationError, match="expected a folder"):
        read_samples(tmp_path / "missing")
