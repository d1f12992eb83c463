"""Images of any kind, streamed to batches of pixels in input order; a bad image becomes a failure, not an exception."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image

from clipfast.config import PreprocessConfig
from clipfast.errors import InputError
from clipfast.inputs.arrays import as_tensor, is_array, is_floating
from clipfast.inputs.decode import EXACT, DecodeOptions
from clipfast.inputs.pipeline import Window, available_processors, windows
from clipfast.inputs.preprocess import decode_any, resize_decoded
from clipfast.inputs.tensors import check_normalized, resized_batches, tensor_batches
from clipfast.inputs.unresized import Place, Unresized

# What became of one image: None when its uint8 row was filled; its place, when that is left to the consumer; its own
# normalised pixels; or its error.
Outcome = Place | torch.Tensor | InputError | None


@dataclass(frozen=True)
class PixelBatch:
    """Some consecutive images.

    pixels: (b, 3, R, R), uint8 in [0, 255], or floating point when the caller normalised them already.
    indices: b positions in the input.
    failures: the errors of those that have no pixels, each with its index.
    unresized: the memory that was given for images of other sizes. places: row -> where in it, of pixels' rows that
        hold nothing yet.
    """

    pixels: torch.Tensor
    indices: list[int]
    failures: list[InputError] = field(default_factory=list)
    unresized: torch.Tensor | None = None
    places: dict[int, Place] = field(default_factory=dict)


def image_batches(
    images: object,
    config: PreprocessConfig,
    size: int,
    *,
    batch_size: int,
    num_workers: int | None = None,
    options: DecodeOptions = EXACT,
    allocate: Callable[[int], torch.Tensor] | None = None,
    allocate_unresized: Callable[[int], torch.Tensor | None] | None = None,
) -> Generator[PixelBatch, None, None]:
    """Batches of at most `batch_size` images, in input order. Closing it ends its threads.

    Args:
        images: an iterable of paths, bytes, file objects, PIL images, uint8 arrays (H, W, 3), (3, H, W) or (H, W)
            and normalised float arrays (3, R, R); or one array or tensor: uint8 (N, H, W, 3) or (N, 3, H, W),
            float (3, R, R) or (N, 3, R, R). Iterables are read two batches ahead, never whole. A tensor's batches
            stay on its device.
        config: interpolation and resize mode.
        size: R.
        num_workers: threads that decode and resize while the caller computes; 0 works in the caller's thread,
            None takes one per processor of this process.
        allocate: makes (count, 3, R, R) uint8 memory to decode and resize into, such as pinned buffers; all of it, or
            the first rows, possibly none, come back as one batch's pixels. Ordinary memory where it is None.
        allocate_unresized: makes (bytes,) uint8 memory for the decoded images of so many rows, which the consumer
            resizes; it comes back with those rows, however many images are in it. What does not fit, other modes than
            RGB, and what decode="fast" decoded at a fraction, is resized here, and everything where it gives None.
    Raises: InputError wrong_type or wrong_shape, when `images` itself is none of the above.
    """
    workers = available_processors() if num_workers is None else num_workers
    if is_array(images):
        batch = as_tensor(images)
        if batch.is_floating_point() or _side(batch) == (size, size):
            parts = tensor_batches(batch, size, batch_size)
        else:
            parts = resized_batches(batch, config, size, batch_size, workers, allocate)
        return (PixelBatch(*part) for part in parts)
    if not isinstance(images, Iterable) or isinstance(
        images, str | bytes | bytearray | memoryview | os.PathLike | Image.Image | dict | set
    ):
        raise InputError(
            f"got one {type(images).__name__}, expected a list or iterable of images, or an array of them; "
            "wrap a single image in a list",
            code="wrong_type",
        )

    def work(
        items: Sequence[object], rows: torch.Tensor, unresized: Unresized | None
    ) -> list[Outcome]:
        pairs = zip(items, rows, strict=True)
        return [_prepare(*pair, config, options, unresized) for pair in pairs]

    if isinstance(images, Sequence) and len(images) == 1:
        workers = 0
    steps = windows(
        images,
        work,
        batch_size=batch_size,
        size=size,
        workers=workers,
        allocate=allocate,
        allocate_unresized=allocate_unresized,
    )
    return (batch for window in steps for batch in _batches(window))


def _side(batch: torch.Tensor) -> tuple[int, ...]:
    """(H, W) of the images in a uint8 batch. Raises: InputError wrong_type, wrong_shape."""
    if batch.dtype != torch.uint8:
        raise InputError(
            f"got a batch of {batch.dtype}, expected uint8 pixels, or normalised floating point (N, 3, R, R)",
            code="wrong_type",
        )
    shape = tuple(batch.shape)
    if len(shape) != 4 or 3 not in (shape[3], shape[1]) or 0 in shape[1:]:
        raise InputError(
            f"got a batch of shape {shape}, expected uint8 (N, H, W, 3) or (N, 3, H, W) with at least one pixel; "
            "wrap a single image in a list",
            code="wrong_shape",
        )
    return shape[1:3] if shape[3] == 3 else shape[2:]


def _prepare(
    image: object,
    row: torch.Tensor,
    config: PreprocessConfig,
    options: DecodeOptions,
    unresized: Unresized | None,
) -> Outcome:
    size = row.shape[-1]
    try:
        if is_array(image) and is_floating(image):
            return check_normalized(as_tensor(image), size)
        decoded = decode_any(image, options, size)
        whole, has_size = decoded.box is None, (decoded.width, decoded.height) == (size, size)
        if unresized is not None and whole and not has_size:
            place = unresized.add(decoded.pixels)
            if place is not None:
                return place
        resize_decoded(decoded, config, size, row.numpy())
    except InputError as error:
        # A new one: the traceback of this one would keep the batch's memory alive, in a cycle with its own frames.
        return InputError(error.message, code=error.code)
    except MemoryError:
        return InputError("decoding it needs more memory than there is", code="image_too_large")
    return None


def _batches(window: Window[Outcome]) -> Iterator[PixelBatch]:
    """The uint8 rows, then the images that came normalised, those of each dtype and device apart."""
    filled: list[int] = []
    places: dict[int, Place] = {}
    failures: list[InputError] = []
    normalized: dict[tuple[torch.dtype, torch.device], dict[int, torch.Tensor]] = {}
    for offset, outcome in enumerate(window.outcomes):
        if outcome is None:
            filled.append(offset)
        elif isinstance(outcome, Place):
            places[len(filled)] = outcome
            filled.append(offset)
        elif isinstance(outcome, InputError):
            failures.append(outcome.at(window.start + offset))
        else:
            normalized.setdefault((outcome.dtype, outcome.device), {})[offset] = outcome
    rows = window.rows[: len(filled)]
    if len(filled) < len(window.rows):
        rows.copy_(window.rows[filled])
    indices = [window.start + offset for offset in filled]
    unresized = None if window.unresized is None else window.unresized.filled
    yield PixelBatch(rows, indices, failures, unresized, places)
    for group in normalized.values():
        positions = [window.start + offset for offset in group]
        yield PixelBatch(torch.stack(list(group.values())), positions)
