"""Images of any kind, streamed to batches of pixels in input order; a bad image becomes a failure, not an exception."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from types import TracebackType
from typing import Self

import torch
from PIL import Image

from clipfast.config import PreprocessConfig
from clipfast.errors import InputError
from clipfast.inputs.arrays import as_tensor, is_array
from clipfast.inputs.decode import DecodeOptions
from clipfast.inputs.preprocess import DEFAULT_OPTIONS, preprocess_image
from clipfast.inputs.tensors import check_normalized, tensor_batches

Prepared = torch.Tensor | InputError


@dataclass(frozen=True)
class PixelBatch:
    """Some consecutive images.

    pixels: (b, 3, R, R), uint8 in [0, 255], or floating point when the caller normalised them already.
    indices: b positions in the input.
    failures: the errors of those that have no pixels, each with its index.
    """

    pixels: torch.Tensor
    indices: list[int]
    failures: list[InputError] = field(default_factory=list)


def image_batches(
    images: object,
    config: PreprocessConfig,
    size: int,
    *,
    batch_size: int,
    num_workers: int | None = None,
    options: DecodeOptions = DEFAULT_OPTIONS,
) -> Iterator[PixelBatch]:
    """Batches of at most `batch_size` images, in input order.

    Args:
        images: an iterable of paths, bytes, file objects, PIL images, uint8 arrays (H, W, 3), (3, H, W) or (H, W)
            and normalised float arrays (3, R, R); or one array or tensor: uint8 (N, H, W, 3) or (N, 3, H, W),
            float (3, R, R) or (N, 3, R, R). Iterables are read a few batches ahead, never whole.
        config: interpolation and resize mode.
        size: R.
        num_workers: threads that decode and resize while the caller computes; 0 works in the caller's thread,
            None takes one per processor of this process.
    Raises: InputError wrong_type or wrong_shape, when `images` itself is none of the above.
    """
    if is_array(images):
        batch = as_tensor(images)
        if batch.is_floating_point():
            return (PixelBatch(*parts) for parts in tensor_batches(batch, size, batch_size))
        images = _image_rows(batch)
        if batch.shape[1:] in ((3, size, size), (size, size, 3)):
            return (PixelBatch(*parts) for parts in tensor_batches(batch, size, batch_size))
    if isinstance(
        images, str | bytes | bytearray | memoryview | os.PathLike | Image.Image | dict | set
    ):
        raise InputError(
            f"got one {type(images).__name__}, expected a list or iterable of images, or an array of them; "
            "wrap a single image in a list",
            code="wrong_type",
        )
    if not isinstance(images, Iterable):
        raise InputError(
            f"got {type(images).__name__}, expected a list or iterable of images, or an array of them",
            code="wrong_type",
        )

    def prepare(image: object) -> Prepared:
        try:
            if is_array(image) and as_tensor(image).is_floating_point():
                return check_normalized(as_tensor(image), size)
            return torch.from_numpy(preprocess_image(image, config, size, options))
        except InputError as error:
            return error

    workers = _available_processors() if num_workers is None else num_workers
    return _grouped(_prepared(images, prepare, workers, batch_size), batch_size, size)


def _image_rows(batch: torch.Tensor) -> Iterable[torch.Tensor]:
    """The images of a uint8 batch. Raises: InputError wrong_type, wrong_shape."""
    if batch.dtype != torch.uint8:
        raise InputError(
            f"got a batch of {batch.dtype}, expected uint8 pixels, or normalised floating point (N, 3, R, R)",
            code="wrong_type",
        )
    if batch.ndim != 4 or 3 not in (batch.shape[3], batch.shape[1]):
        raise InputError(
            f"got a batch of shape {tuple(batch.shape)}, expected uint8 (N, H, W, 3) or (N, 3, H, W); wrap a single "
            "image in a list",
            code="wrong_shape",
        )
    return batch.unbind() if batch.shape[0] else []


def _prepared(
    images: Iterable[object], prepare: Callable[[object], Prepared], workers: int, batch_size: int
) -> Iterator[Prepared]:
    """`prepare` of every image in order, on threads, at most two batches ahead of the consumer."""
    source = _counted(images)
    if workers < 1:
        yield from map(prepare, source)
        return
    ahead = 2 * batch_size + workers
    pending: deque[Future[Prepared]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="clipfast-inputs")
    try:
        pending.extend(pool.submit(prepare, image) for image in islice(source, ahead))
        while pending:
            yield pending.popleft().result()
            pending.extend(pool.submit(prepare, image) for image in islice(source, 1))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _ItemCount:
    """Notes on an exception that leaves the block how many items the caller's iterable gave before."""

    items = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and not isinstance(error, GeneratorExit):
            error.add_note(f"raised by the iterable of images after {self.items} images")


def _counted(images: Iterable[object]) -> Iterator[object]:
    with _ItemCount() as count:
        for image in images:
            yield image
            count.items += 1


def _grouped(prepared: Iterator[Prepared], batch_size: int, size: int) -> Iterator[PixelBatch]:
    """Consecutive images to batches; within one, images of each dtype and device apart."""
    start = 0
    while chunk := list(islice(prepared, batch_size)):
        failures = [
            item.at(start + offset)
            for offset, item in enumerate(chunk)
            if isinstance(item, InputError)
        ]
        groups: dict[tuple[torch.dtype, torch.device], list[int]] = {}
        for offset, item in enumerate(chunk):
            if isinstance(item, torch.Tensor):
                groups.setdefault((item.dtype, item.device), []).append(offset)
        for offsets in groups.values():
            rows = [row for offset in offsets if isinstance(row := chunk[offset], torch.Tensor)]
            yield PixelBatch(torch.stack(rows), [start + offset for offset in offsets], failures)
            failures = []
        if failures:
            yield PixelBatch(torch.empty(0, 3, size, size, dtype=torch.uint8), [], failures)
        start += len(chunk)


def _available_processors() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0))
