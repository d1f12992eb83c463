"""EXIF orientation: which flip and rotation shows an image upright."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from clipfast.inputs.geometry import Box

Array = npt.NDArray[Any]

_METHODS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_orientation(image: Image.Image, hostile: tuple[type[BaseException], ...]) -> int:
    """The orientation tag, 1 to 8; 1 where there is none or its metadata cannot be read (`hostile` exceptions)."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except hostile:
        return 1
    return orientation if orientation in _METHODS else 1


def upright_image(image: Image.Image, orientation: int) -> Image.Image:
    """The image as it should be seen."""
    return image.transpose(_METHODS[orientation]) if orientation in _METHODS else image


def upright_pixels(pixels: Array, box: Box, orientation: int) -> tuple[Array, Box]:
    """(H, W, ...) pixels and a box of them as they should be seen; orientations 5 to 8 swap the axes."""
    left, top, right, bottom = box
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
        left, top, right, bottom = top, left, bottom, right
    height, width = pixels.shape[:2]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
        left, right = width - right, width - left
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
        top, bottom = height - bottom, height - top
    return np.ascontiguousarray(pixels), (left, top, right, bottom)
