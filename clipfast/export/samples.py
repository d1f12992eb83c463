"""The inputs that an export is verified (and, for int8, calibrated) with: the demo's images and prompts, or the user's.

`samples/images.png` is a sheet of tiles drawn like the demo model's images, `samples/prompts.txt` their captions
(`tests/export/draw_samples.py` draws both). A user's calibration folder holds image files, and texts as lines of .txt
files; where it has none of one kind, the packaged ones stand in.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from clipfast.config import ModelConfig
from clipfast.errors import ConfigurationError
from clipfast.inputs import load_tokenizer, preprocess_image
from clipfast.runtimes.metadata import PixelInput, TowerName

logger = logging.getLogger("clipfast")

FOLDER = Path(__file__).parent / "samples"
COLUMNS = 8
TILE = 224
_IMAGE_SUFFIXES = (
    ".avif",
    ".bmp",
    ".gif",
    ".jpeg",
    ".jpg",
    ".png",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)


@dataclass(frozen=True)
class Samples:
    """images: whatever `preprocess_image` takes. texts: prompts. origin: where they come from, for reports."""

    images: tuple[object, ...]
    texts: tuple[str, ...]
    origin: str
    packaged: bool = False

    def every_other(self, first: int) -> Samples:
        """Half of them: one half calibrates, the other (first=1) verifies."""
        images, texts = self.images[first::2], self.texts[first::2]
        return Samples(images or self.images, texts or self.texts, self.origin, self.packaged)

    def rows(self, tower: TowerName, config: ModelConfig, pixels: PixelInput) -> torch.Tensor:
        """What the exported tower reads: (N, 3, R, R) uint8 or normalised float32, or (N, context_length) int32."""
        if tower == "text":
            return torch.from_numpy(self.token_ids(config))
        size, preprocess = config.vision.image_size, config.preprocess
        rows = torch.from_numpy(
            np.stack([preprocess_image(image, preprocess, size) for image in self.images])
        )
        if pixels == "uint8":
            return rows
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (preprocess.mean, preprocess.std))
        return (rows / 255 - mean) / std

    def token_ids(self, config: ModelConfig) -> npt.NDArray[np.int32]:
        tokenizer = load_tokenizer()
        return tokenizer.tokenize(list(self.texts), config.text.context_length, True)


def packaged_samples() -> Samples:
    """The demo's images and prompts."""
    with Image.open(FOLDER / "images.png") as sheet:
        tiles = tuple(
            sheet.crop((left, top, left + TILE, top + TILE)).convert("RGB")
            for top in range(0, sheet.height, TILE)
            for left in range(0, sheet.width, TILE)
        )
    texts = tuple((FOLDER / "prompts.txt").read_text().splitlines())
    return Samples(tiles, texts, "the demo's images and prompts", packaged=True)


def read_samples(folder: Path) -> Samples:
    """A user's images and texts.

    Raises:
        ConfigurationError: the folder is missing or holds neither.
    """
    if not folder.is_dir():
        raise ConfigurationError(
            f"calibration {folder}: expected a folder of images and .txt files"
        )
    files = sorted(folder.rglob("*"))
    images = tuple(str(file) for file in files if file.suffix.lower() in _IMAGE_SUFFIXES)
    lines = [file.read_text().splitlines() for file in files if file.suffix == ".txt"]
    texts = tuple(line.strip() for chunk in lines for line in chunk if line.strip())
    if not images and not texts:
        raise ConfigurationError(
            f"calibration {folder}: holds no image file and no line of text in a .txt file"
        )
    packaged = packaged_samples()
    logger.info("calibration %s: %d images, %d texts", folder, len(images), len(texts))
    return Samples(images or packaged.images, texts or packaged.texts, str(folder))
