"""Items to pixels and captions. A bad item keeps its slot, black, so that its neighbours keep their bits."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from clipfast.bulk.item import Item, read_caption, read_image
from clipfast.bulk.shard import Modality
from clipfast.config import PreprocessConfig
from clipfast.errors import InputError
from clipfast.inputs import EXACT, DecodeOptions
from clipfast.inputs.preprocess import preprocess_into
from clipfast.inputs.read import read_source

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Recipe:
    """How items are read; all that a decoding worker needs to know."""

    preprocess: PreprocessConfig
    size: int
    modalities: tuple[Modality, ...] = ("images",)
    options: DecodeOptions = EXACT


@dataclass
class Decoded:
    """What some consecutive items held besides their pixels.

    captions: None where there is none. failures: by place.
    decode_seconds: processor time of the thread. read_seconds: until it had the bytes of images.
    """

    captions: list[str | None] = field(default_factory=list)
    failures: dict[int, InputError] = field(default_factory=dict)
    decode_seconds: float = 0.0
    read_seconds: float = 0.0


def decode_items(
    items: Sequence[Item],
    pixels: Pixels | None,
    recipe: Recipe,
    turn: threading.Event | None = None,
) -> Decoded:
    """Never raises for a bad item.

    Args:
        pixels: (b, 3, R, R) to fill; None when images are not asked for.
        turn: waited for before each item is decoded.
    """
    decoded = Decoded()
    busy = time.thread_time()
    encoded = _read_items(items, recipe, decoded)
    for place, data in enumerate(encoded):
        if turn is not None:
            turn.wait()
        if pixels is not None and data is not None:
            try:
                preprocess_into(data, recipe.preprocess, recipe.size, recipe.options, pixels[place])
            except InputError as error:
                # A new one: the traceback of this one would keep the batch's memory alive.
                decoded.failures[place] = InputError(error.message, code=error.code)
            except MemoryError:
                said = "decoding it needs more memory than there is"
                decoded.failures[place] = InputError(said, code="image_too_large")
        if pixels is not None and place in decoded.failures:
            pixels[place] = 0
    decoded.decode_seconds = time.thread_time() - busy
    return decoded


def _read_items(items: Sequence[Item], recipe: Recipe, decoded: Decoded) -> list[bytes | None]:
    """Encoded images, before anything is decoded: waiting for a disk or a network costs no turn."""
    encoded: list[bytes | None] = [None] * len(items)
    for place, item in enumerate(items):
        caption: str | None = None
        began = time.perf_counter()
        try:
            caption = _caption(item, recipe)
            if "images" in recipe.modalities:
                encoded[place] = read_source(read_image(item), recipe.options.max_bytes)
        except InputError as error:
            decoded.failures[place] = InputError(error.message, code=error.code)
        except MemoryError:
            said = "reading it needs more memory than there is"
            decoded.failures[place] = InputError(said, code="image_too_large")
        decoded.read_seconds += time.perf_counter() - began
        decoded.captions.append(caption)
    return encoded


def _caption(item: Item, recipe: Recipe) -> str | None:
    """The caption: needed where texts are embedded, else kept where the source has it at hand."""
    if "texts" in recipe.modalities:
        return read_caption(item)
    return item.caption if isinstance(item.caption, str) else None


def pack_failures(failures: Mapping[int, InputError]) -> list[list[Any]]:
    """Failures by place, as JSON holds them."""
    return [[place, error.code, error.message] for place, error in failures.items()]


def unpack_failures(packed: list[list[Any]]) -> dict[int, InputError]:
    """What `pack_failures` was given."""
    return {place: InputError(message, code=code) for place, code, message in packed}
