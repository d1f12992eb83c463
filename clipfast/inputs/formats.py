"""Which image formats are opened, and the names of those that are not."""

from __future__ import annotations

from typing import Final

# The decoders that users need. Others (EPS, PDF, PSD, FITS, WMF...) hold most of the published vulnerabilities.
DEFAULT_FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
OPTIONAL_FORMATS: Final = ("JPEG2000",)

_UNSUPPORTED: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"8BPS", "Photoshop (PSD)"),
    (0, b"\x00\x00\x01\x00", "Windows icon (ICO)"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"\x0000\x0cjP  ", "JPEG 2000"),
    (0, b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"FUJIFILMCCD-RAW", "camera raw (RAF)"),
    (0, b"IIRO", "camera raw (ORF)"),
    (0, b"IIU\x00", "camera raw (RW2)"),
    (8, b"CR\x02\x00", "camera raw (CR2)"),
    (4, b"ftypcrx ", "camera raw (CR3)"),
    (4, b"ftyphe", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypmsf1", "HEIF"),
    (4, b"ftyp", "video (MP4, MOV)"),
    (0, b"\x1aE\xdf\xa3", "video (Matroska, WebM)"),
    (8, b"AVI ", "video (AVI)"),
    (0, b"\x00\x00\x01\xba", "video (MPEG)"),
)


def unsupported_format(data: bytes) -> str | None:
    """The name of a recognised format that is not opened, or None."""
    for offset, magic, name in _UNSUPPORTED:
        if data.startswith(magic, offset):
            return name
    text = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<svg") or (text.startswith(b"<?xml") and b"<svg" in text):
        return "SVG"
    return None
