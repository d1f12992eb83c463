"""Encoded images to pixels through Pillow, with our own limits and none of its exceptions leaking through.

Pillow's process-wide settings (MAX_IMAGE_PIXELS, LOAD_TRUNCATED_IMAGES) are neither changed nor relied on: the plugins
of the allowed formats are called directly, and the size in the header is checked before any pixel is decoded.
"""

from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from clipfast.errors import ConfigurationError, InputError
from clipfast.inputs import jpeg
from clipfast.inputs.formats import DEFAULT_FORMATS, OPTIONAL_FORMATS, unsupported_format
from clipfast.inputs.geometry import Box
from clipfast.inputs.jpeg_decoders import JPEG_DECODERS, jpeg_decoder
from clipfast.inputs.orientation import read_orientation, upright_image, upright_pixels
from clipfast.inputs.read import read_source

__all__ = ["EXACT", "Decode", "DecodeOptions", "Decoded", "decode_image"]

Pixels = npt.NDArray[np.uint8]

# Importing a plugin is what registers it with Pillow.
_PLUGINS = (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

# What Pillow's plugins raise on hostile bytes. Each is turned into an InputError; none is swallowed.
_DECODER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Image.DecompressionBombError,
    Warning,  # where the caller's filters make them errors
    struct.error,
    zlib.error,
)
_TRUNCATED = (
    "truncated",
    "not enough image data",
    "unexpected end",
    "end of file",
    "eof",
    "incomplete",
)
_CLOSED = "Operation on closed image"
_SIGNATURE_BYTES = 16


Decode = Literal["exact", "fast", "torchcodec", "nvimagecodec"]


class Decoded(NamedTuple):
    """Decoded pixels, and the size that the full image has.

    box: where decode="fast" gave fewer pixels, the part of them that the image fills; None is all of them.
    """

    pixels: Image.Image | Pixels
    width: int
    height: int
    box: Box | None = None


@dataclass(frozen=True)
class DecodeOptions:
    """How encoded images are read.

    decode: "exact" gives the pixels of Pillow's full decoding; "fast" lets JPEG decode at a fraction of its size, at
        least twice the target; "torchcodec" and "nvimagecodec" are for JPEG on a GPU's decoder, whose pixels differ by
        a few steps, and where they cannot read a file it is decoded exactly, or refused.
    exif_orientation: turn images upright as their EXIF tag says. The reference ignores it, and so do we by default.
    max_pixels: refuse larger images from their header (178,956,970 is where Pillow too refuses).
    max_bytes: refuse longer encoded data.
    formats: names of Pillow's formats; DEFAULT_FORMATS, and "JPEG2000" for those who need it.
    Raises: ConfigurationError when an option is none of these; UnsupportedError when decode's library is missing.
    """

    decode: Decode = "exact"
    exif_orientation: bool = False
    max_pixels: int = 178_956_970
    max_bytes: int = 1 << 30
    formats: tuple[str, ...] = DEFAULT_FORMATS

    def __post_init__(self) -> None:
        unknown = set(self.formats) - {*DEFAULT_FORMATS, *OPTIONAL_FORMATS}
        if unknown or self.decode not in get_args(Decode):
            raise ConfigurationError(
                f"got decode={self.decode!r}, formats={self.formats!r}; expected decode out of {get_args(Decode)}, and "
                f"formats out of {(*DEFAULT_FORMATS, *OPTIONAL_FORMATS)}"
            )
        if self.decode in JPEG_DECODERS:
            jpeg_decoder(self.decode)


EXACT = DecodeOptions()


def decode_image(source: object, options: DecodeOptions, size: int) -> Decoded:
    """The first frame of one image, in its own mode.

    Args:
        source: a path, bytes, a binary file object or a PIL image (whose format is not checked).
        size: the target side, which decode="fast" keeps twice as many pixels for.
    Raises: InputError unidentified_image, truncated_image, corrupt_image, image_too_large, unsupported_format,
        unreadable_file or wrong_type.
    """
    if isinstance(source, Image.Image):
        _check_size(*source.size, options)
        with _load_lock(source):
            return _whole(_load(source), options)
    data = read_source(source, options.max_bytes)
    header = jpeg.read_header(data) if "JPEG" in options.formats else None
    if header is not None:
        decoded = _decode_jpeg(data, header, options, size)
        if decoded is not None:
            return decoded
    image = _identify(data, options)
    _check_size(*image.size, options)
    return _whole(_load(image), options)


def _whole(image: Image.Image, options: DecodeOptions) -> Decoded:
    if options.exif_orientation:
        image = upright_image(image, read_orientation(image, _DECODER_ERRORS))
    return Decoded(image, image.width, image.height)


def _decode_jpeg(
    data: bytes, header: jpeg.JpegHeader, options: DecodeOptions, size: int
) -> Decoded | None:
    """The image without Pillow's decoder, or None."""
    width, height = header.width, header.height
    _check_size(width, height, options)
    jpeg.check_scans(data, width * height)
    eighths = jpeg.eighths_for(header, 2 * size) if options.decode == "fast" else 8
    pixels = None
    if options.decode in JPEG_DECODERS and jpeg.is_usual(header):
        pixels = jpeg_decoder(options.decode)(data)
    if pixels is None:
        pixels = jpeg.decode(data, header, eighths)
    if pixels is None:
        return None
    box: Box = (0.0, 0.0, width * eighths / 8, height * eighths / 8)
    if options.exif_orientation:
        orientation = read_orientation(_identify(data, options), _DECODER_ERRORS)
        pixels, box = upright_pixels(pixels, box, orientation)
        if orientation >= 5:
            width, height = height, width
    return Decoded(pixels, width, height, box if eighths < 8 else None)


def _identify(data: bytes, options: DecodeOptions) -> Image.Image:
    """The image with its header read and its pixels still encoded."""
    prefix = data[:_SIGNATURE_BYTES]
    for name in options.formats:
        factory, accept = Image.OPEN[name]
        accepted = accept is None or accept(prefix)
        if isinstance(accepted, str):
            raise InputError(f"{name}: {accepted}", code="unsupported_format")
        if not accepted:
            continue
        try:
            return factory(io.BytesIO(data), "")
        except _DECODER_ERRORS as error:
            if len(data) > _SIGNATURE_BYTES and unsupported_format(data) is None:
                raise _decoding_error(name, "header", error) from None
    foreign = unsupported_format(data)
    if foreign is not None:
        raise InputError(
            f"{foreign} is not opened; expected one of {', '.join(options.formats)}",
            code="unsupported_format",
        )
    raise InputError(
        f"{len(data)} bytes that are no image, starting with {data[:12]!r}; expected one of "
        f"{', '.join(options.formats)}",
        code="unidentified_image",
    )


def _check_size(width: int, height: int, options: DecodeOptions) -> None:
    if width < 1 or height < 1:
        raise InputError(f"an image of {width} x {height} pixels holds none", code="corrupt_image")
    if width * height > options.max_pixels:
        raise InputError(
            f"{width} x {height} pixels where at most {options.max_pixels} are decoded; raise max_pixels to allow it",
            code="image_too_large",
        )


def _load(image: Image.Image) -> Image.Image:
    try:
        image.load()
    except _DECODER_ERRORS as error:
        raise _decoding_error(image.format or "image", "data", error) from None
    return image


def _decoding_error(format_name: str, part: str, error: BaseException) -> InputError:
    if isinstance(
        error, Image.DecompressionBombError | Image.DecompressionBombWarning | MemoryError
    ):
        return InputError(
            f"{format_name} {part} needs more memory than is allowed: {error}",
            code="image_too_large",
        )
    reason = str(error) or type(error).__name__
    if reason == _CLOSED:
        return InputError("the PIL image is closed; pass it before closing", code="unreadable_file")
    truncated = any(word in reason.lower() for word in _TRUNCATED)
    return InputError(
        f"{format_name} {part} cannot be decoded: {reason}",
        code="truncated_image" if truncated else "corrupt_image",
    )


def _new_locks() -> tuple[threading.Lock, ...]:
    return tuple(threading.Lock() for _ in range(64))


# Two threads must not decode one lazily opened image at once.
_LOAD_LOCKS = [_new_locks()]


def _load_lock(image: Image.Image) -> threading.Lock:
    locks = _LOAD_LOCKS[0]
    return locks[(id(image) >> 6) % len(locks)]


def _reset_locks() -> None:
    _LOAD_LOCKS[0] = _new_locks()


# A lock that another thread held at a fork would stay locked in the child.
os.register_at_fork(after_in_child=_reset_locks)
