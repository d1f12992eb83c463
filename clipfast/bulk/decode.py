"""Items to pixels and captions. A bad item keeps its slot, black, so that its neighbours keep their bits."""

from __future__ import annotations

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


def decode_items(items: Sequence[Item], pixels: Pixels | None, recipe: Recipe) -> Decoded:
    """Fill `pixels`, (b, 3, R, R) or None when images are not asked for. Never raises for a bad item."""
    decoded = Decoded()
    busy = time.thread_time()
    for place, item in enumerate(items):
        caption: str | None = None
        try:
            caption = _caption(item, recipe)
            if pixels is not None:
                began = time.perf_counter()
                data = read_source(read_image(item), recipe.options.max_bytes)
                decoded.read_seconds += time.perf_counter() - began
                preprocess_into(data, recipe.preprocess, recipe.size, recipe.options, pixels[place])
        except InputError as error:
            # A new one: the traceback of this one would keep the batch's memory alive.
            decoded.failures[place] = InputError(error.message, code=error.code)
        except MemoryError:
            decoded.failures[place] = InputError(
                "decoding it needs more memory than there is", code="image_too_large"
            )
        if place in decoded.failures and pixels is not None:
            pixels[place] = 0
        decoded.captions.append(caption)
    decoded.decode_seconds = time.thread_time() - busy
    return decoded


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
