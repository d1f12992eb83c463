"""Bad image files, generated, each with the code that it must get."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def _encoded(form, seed=0, side=64, **options):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def _png_header(width, height):
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 8192) + b"IDAT" + bytes(8192)


def _flipped(data, at):
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def poison(number):
    """(bytes, expected code) of the bad file `number`; there are as many kinds as KINDS, each at changing sizes."""
    kind, seed = KINDS[number % len(KINDS)], number
    return kind(seed)


KINDS = (
    lambda seed: (b"", "unidentified_image"),
    lambda seed: (np.random.default_rng(seed).bytes(200 + seed), "unidentified_image"),
    lambda seed: (b"<!DOCTYPE html><html>404 not found</html>", "unidentified_image"),
    lambda seed: (b"\x89PNG\r\n\x1a\n", "unidentified_image"),
    lambda seed: (_encoded("JPEG", seed)[: 700 + seed], "truncated_image"),
    lambda seed: (_encoded("PNG", seed)[: 700 + seed], "truncated_image"),
    lambda seed: (_encoded("WEBP", seed)[: 300 + seed], "corrupt_image"),
    lambda seed: (_flipped(_encoded("PNG", seed), 60 + seed), "corrupt_image"),
    lambda seed: (_png_header(20_000 + seed, 20_000), "image_too_large"),
    lambda seed: (_png_header(0, 5), "corrupt_image"),
    lambda seed: (b"%PDF-1.7\n" + bytes(seed), "unsupported_format"),
    lambda seed: (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_format"),
    lambda seed: (b"\x00\x00\x00\x18ftypheic" + bytes(100), "unsupported_format"),
    lambda seed: (b"\x1aE\xdf\xa3" + bytes(100), "unsupported_format"),
)
