"""Images that the tests draw."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def photo(seed: int, width: int = 90, height: int = 70) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    photo(seed).save(buffer, "PNG")
    return buffer.getvalue()
