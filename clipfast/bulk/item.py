"""One thing to embed: what it is called, where its image and its caption come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from clipfast.errors import InputError

SUFFIXES = frozenset(
    ["avif", "bmp", "gif", "jpeg", "jpg", "pbm", "pgm", "png", "pnm", "ppm", "tif", "tiff", "webp"]
)
"""Of files that are taken for images, in lower case."""


class Stored(Protocol):
    """Bytes that are read when they are needed."""

    def read(self) -> bytes:
        """The bytes. Raises: InputError unreadable_file."""
        ...


@dataclass(frozen=True, slots=True)
class Item:
    """An item of a job. The same item has the same name in every run.

    name: goes to the metadata as image_path.
    image: a path, the encoded bytes, bytes that are still stored, or why there are none.
    caption: the text, its stored bytes (UTF-8), why it cannot be had, or None when the source gives none.
    """

    name: str
    image: str | bytes | Stored | InputError
    caption: str | Stored | InputError | None = None


class Source(Protocol):
    """A list of items, in an order that every run sees alike, read in slices. It pickles."""

    count: int
    digest: str
    """Hexadecimal; other items, or the same in another order, have another one."""

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """The items [start, stop), streamed."""
        ...


def read_image(item: Item) -> str | bytes:
    """A path, or encoded bytes. Raises: InputError."""
    if isinstance(item.image, InputError):
        raise item.image
    return item.image if isinstance(item.image, str | bytes) else item.image.read()


def read_caption(item: Item) -> str:
    """The item's caption; for a path without one, the text of the .txt file beside it.

    Raises: InputError unreadable_file or invalid_text.
    """
    caption = item.caption
    if isinstance(caption, InputError):
        raise caption
    if isinstance(caption, str):
        return caption
    if caption is not None:
        data = caption.read()
    elif isinstance(item.image, str):
        data = _beside(Path(item.image))
    else:
        raise InputError("the item has no caption", code="invalid_text")
    try:
        return data.decode().strip()
    except UnicodeDecodeError as error:
        raise InputError(f"the caption is not UTF-8: {error}", code="invalid_text") from None


def _beside(image: Path) -> bytes:
    try:
        return image.with_suffix(".txt").read_bytes()
    except FileNotFoundError:
        raise InputError(
            "no caption: there is no .txt file beside it", code="invalid_text"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"its caption cannot be read: {error}", code="unreadable_file") from None
