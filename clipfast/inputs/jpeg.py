"""JPEG through libjpeg-turbo without the GIL (simplejpeg), where its pixels are Pillow's; Pillow does the rest."""

from __future__ import annotations

import io
import logging
from functools import cache
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipfast.errors import InputError

logger = logging.getLogger("clipfast")

Pixels = npt.NDArray[np.uint8]

_SUBSAMPLINGS: Final = ("444", "422", "420", "440", "411", "Gray")
_COLORSPACES: Final = {"YCbCr": "RGB", "Gray": "GRAY"}
# A progressive file may repeat scans over the whole image thousands of times; encoders write about ten.
_USUAL_SCANS = 64
_MAX_SCAN_PIXELS = 4_000_000_000
_PROGRESSIVE = 0xC2
_BLOCK = 8
_FRAME_MARKERS: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class JpegHeader(NamedTuple):
    width: int
    height: int
    colorspace: str
    subsampling: str


def read_header(data: bytes) -> JpegHeader | None:
    """Size and color format, or None when the data is no JPEG or one that libjpeg-turbo does not read."""
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    import simplejpeg  # only JPEGs wait for it

    try:
        height, width, colorspace, subsampling = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return JpegHeader(width, height, colorspace, subsampling)


def check_scans(data: bytes, pixels: int) -> None:
    """Raises: InputError corrupt_image when decoding every scan would take minutes."""
    if _frame_marker(data) != _PROGRESSIVE:
        return
    scans = data.count(b"\xff\xda")
    if scans > _USUAL_SCANS and scans * pixels > _MAX_SCAN_PIXELS:
        raise InputError(
            f"a progressive JPEG of {scans} scans over {pixels} pixels, which is no photograph; encode it again",
            code="corrupt_image",
        )


def _frame_marker(data: bytes) -> int:
    """The marker of the first frame header (0xC0 baseline, 0xC2 progressive...), 0 when there is none."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _FRAME_MARKERS:
            return marker
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0


def is_usual(header: JpegHeader) -> bool:
    """Whether its colors are those that every decoder reads alike."""
    return header.colorspace in _COLORSPACES and header.subsampling in _SUBSAMPLINGS


def eighths_for(header: JpegHeader, least_side: int) -> int:
    """n of the smallest scale n/8 that keeps both sides at least `least_side` long; 8 where none smaller does."""
    side = min(header.width, header.height)
    # Of shorter sides two scales may give the same number of pixels.
    least = max(least_side, _BLOCK)
    return next((n for n in range(1, 8) if side * n >= 8 * least), 8)


def decode(data: bytes, header: JpegHeader, eighths: int) -> Pixels | None:
    """The pixels, or None when Pillow must decide: unusual color, damage, or a libjpeg that differs from Pillow's.

    Args:
        eighths: n of the scale n/8 that a side is decoded at, as `eighths_for` gave it; 8 is full size. The last pixel
            of a side may be image in part: side * n/8 pixels are in the first ceil(side * n/8).
    Returns: (H, W, 3) or (H, W) uint8.
    Raises: InputError truncated_image when the data ends before the image does.
    """
    if not is_usual(header) or not equals_pillow():
        return None
    import simplejpeg

    colorspace = _COLORSPACES[header.colorspace]
    # simplejpeg takes the smallest scale that reaches these; 0 is full size.
    rows, columns = (
        -(-side * eighths // 8) if eighths < 8 else 0 for side in (header.height, header.width)
    )
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(
            data, colorspace, min_height=rows, min_width=columns, strict=True
        )
    except ValueError as error:
        # Whether Pillow notices a missing end depends on how its reads fall; here it is an error always.
        if "Premature end" in str(error):
            raise InputError(
                f"JPEG data cannot be decoded: {error}", code="truncated_image"
            ) from None
        return None
    except MemoryError:
        return None
    return pixels[..., 0] if colorspace == "GRAY" else pixels


@cache
def equals_pillow() -> bool:
    """Whether simplejpeg's libjpeg-turbo and Pillow's give the same pixels, tried once on images made here."""
    import simplejpeg

    rows, columns = np.mgrid[0:61, 0:83]
    waves = [
        128 + 100 * np.sin(rows / (3 + c) + columns * columns / (90 - 20 * c)) for c in range(3)
    ]
    image = Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8))
    for source in (image, image.convert("L")):
        for options in (
            {"subsampling": 0},
            {"subsampling": 1},
            {"subsampling": 2, "progressive": True},
        ):
            file = io.BytesIO()
            source.save(file, "JPEG", quality=83, **options)
            colorspace = "GRAY" if source.mode == "L" else "RGB"
            pixels = simplejpeg.decode_jpeg(file.getvalue(), colorspace)
            with Image.open(file) as decoded:
                if not np.array_equal(pixels.squeeze(), np.asarray(decoded)):
                    logger.warning(
                        "simplejpeg's pixels differ from Pillow's here, so Pillow decodes JPEG: slower, same pixels"
                    )
                    return False
    return True
