"""Encoded images, whole and broken, made here byte by byte."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def photo(width=320, height=240, seed=0):
    """A smooth random image: what JPEG is made for, with edges and noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(height // 16, 2), max(width // 16, 2), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noisy = smooth.astype(np.int64) + rng.integers(-12, 13, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def encoded(image, format_name="JPEG", **options):
    file = io.BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, pixels=b"", extra=b""):
    """A PNG of 8-bit RGB that claims width x height; `pixels` is its IDAT, `extra` chunks come before."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (
        png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


def jpeg_claiming(width, height):
    """A JPEG of 64 x 48 whose header says otherwise."""
    data = bytearray(encoded(photo(64, 48)))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def jpeg_with_frame(marker, precision=8):
    """A JPEG whose frame header claims another process (0xC3 lossless, 0xC9 arithmetic) or sample precision."""
    data = bytearray(encoded(photo(64, 48)))
    at = data.index(b"\xff\xc0")
    data[at + 1], data[at + 4] = marker, precision
    return bytes(data)


def jpeg_of_many_scans(scans, width=64, height=48):
    """A progressive JPEG of 64 x 48 that repeats its last scan and claims width x height."""
    data = encoded(photo(64, 48), progressive=True)
    at = data.index(b"\xff\xc2") + 5
    data = data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]
    last = data.rindex(b"\xff\xda")
    scan = data[last:-2]
    return data[:last] + scan * scans + b"\xff\xd9"


def gif_claiming(width, height):
    screen = b"GIF89a" + struct.pack("<HH", width, height) + b"\0\0\0"
    return screen + b",\0\0\0\0" + struct.pack("<HH", width, height) + b"\0\x02\x02\x4c\x01\0;"


def bmp_claiming(width, height):
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + info


def webp_claiming(width, height):
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return (
        b"RIFF"
        + struct.pack("<I", 22)
        + b"WEBPVP8X"
        + struct.pack("<I", 10)
        + b"\0" * 4
        + size
        + b"\0" * 20
    )


def tiff_of_strips(count):
    """A TIFF of 16 x 16 that claims `count` strips."""
    entries = [(256, 3, 1, 16), (257, 3, 1, 16), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    entries += [(273, 4, count, 8), (278, 3, 1, 1), (279, 4, count, 8)]
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return (
        b"II*\0"
        + struct.pack("<I", 8)
        + struct.pack("<H", len(entries))
        + body
        + struct.pack("<I", 0)
    )
