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
    return _tiff(16, 16, strips=count, rows_per_strip=1)


def tiff_claiming(width, height):
    """A TIFF of 8-bit grey that claims width x height, in one strip that holds none of it."""
    return _tiff(width, height, strips=1, rows_per_strip=height)


def _tiff(width, height, strips, rows_per_strip):
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1)]
    entries += [(262, 3, 1, 1), (273, 4, strips, 8), (278, 4, 1, rows_per_strip)]
    entries += [(279, 4, strips, 8)]
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    header = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries))
    return header + body + struct.pack("<I", 0)


def lzw_bomb(side):
    """An LZW strip of side x side equal pixels in a TIFF that says it is 16 x 16."""
    large = encoded(Image.new("L", (side, side)), "TIFF", compression="tiff_lzw")
    with Image.open(io.BytesIO(large)) as image:
        tags = image.tag_v2
        data = bytearray(large)
        offset = struct.unpack_from("<I", data, 4)[0]
        for entry in range(len(tags)):
            at = offset + 2 + 12 * entry
            tag, kind = struct.unpack_from("<HH", data, at)
            if tag in (256, 257):
                struct.pack_into("<I" if kind == 4 else "<H", data, at + 8, 16)
    return bytes(data)


def with_adobe_transform(data, transform):
    """A JPEG whose Adobe marker says another color transform: 0 none (CMYK), 2 YCCK."""
    at = data.index(b"\xff\xee\x00\x0eAdobe") + 15
    return data[:at] + bytes([transform]) + data[at + 1 :]
