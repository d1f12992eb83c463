"""Images through one device: any number in, in batches that fill it, through graphs, within its memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from clipfast.device.batching import Batching
from clipfast.device.graphs import Encode, Graphs, ordinary
from clipfast.device.layer import DeviceLayer, Tensor
from clipfast.device.memory import MemoryLimit
from clipfast.device.pipeline import Pipeline

# (H, W, 3) uint8 images of any sizes -> (n, *shape) uint8, on the device.
Resize = Callable[[Sequence[Tensor]], Tensor]
# Bytes a batch and image for those that the device resizes; what does not fit is resized before.
UNRESIZED_BYTES = 3 * 512 * 512


class DeviceImages:
    """The image encoder of one device. Several threads may use it.

    Args:
        encode: (b, *shape) on the device, normalize -> (b, width) on the device.
        shape: of one image. width, dtype: of a row.
        graphs: whether `encode` can be captured: nothing in it waits for the device.
        resize: makes images of other sizes on the device, instead of before; None where the host does.
    """

    def __init__(
        self,
        layer: DeviceLayer,
        encode: Encode,
        batching: Batching,
        shape: tuple[int, ...],
        width: int,
        dtype: torch.dtype,
        *,
        graphs: bool,
        resize: Resize | None = None,
    ) -> None:
        self.layer = layer
        self.shape = shape
        self._encode = encode
        self._batching = batching
        self._row = (shape, width, dtype)
        self._resize = resize
        self._graphs = (
            Graphs(layer, encode, batching.bucket, shape, batching.most) if graphs else None
        )
        self._memory = MemoryLimit(
            layer, _nothing if self._graphs is None else self._graphs.release
        )
        self._idle: list[Pipeline] = []
        self._lock = threading.Lock()

    def batch(self, asked: int | None) -> int:
        """Images a batch: what was asked for, else what fills the device; no more than what is known to fit."""
        return self._memory.within(asked or self._batching.size)

    def run(self, pixels: Tensor, normalize: bool, batch_size: int | None) -> Tensor:
        """(n, *shape) on the device -> (n, width) on the device, in the order of the current stream.

        Raises: DeviceMemoryError.
        """
        if not len(pixels):
            return pixels.new_empty(0, self._row[1], dtype=self._row[2])
        most = batch_size or self._batching.most
        pieces = _even if batch_size else self._batching.pieces
        rows = self._memory.run(
            lambda piece: self._one_batch(piece, normalize), pixels, pieces, most
        )
        return ordinary(rows) if rows.is_inference() else rows

    def resize_into(self, rows: Tensor, images: Mapping[int, Tensor]) -> None:
        """rows[i] = images[i] in their size, in the order of the current stream.

        Args:
            rows: (n, *shape) uint8 on the device. images: row, ascending -> (H, W, 3) uint8 on the device.
        Raises: DeviceMemoryError.
        """
        resize = self._resize
        assert resize is not None, "images of other sizes come only where they are resized"
        given = list(images.values())

        def resized(at: Tensor) -> Tensor:
            return resize([given[place] for place in at.tolist()])

        done = 0
        for first, count in _runs(images):
            places = torch.arange(done, done + count)
            rows[first : first + count] = self._memory.run(resized, places, _even, count)
            done += count

    @contextmanager
    def pipeline(self, batch_size: int | None) -> Iterator[Pipeline]:
        """A way in for batches on the host, of `pipeline.batch` images at most; the next caller gets it again.

        Raises: DeviceMemoryError.
        """
        pipeline = self._idle_pipeline(self.batch(batch_size)) or self._new_pipeline(batch_size)
        try:
            yield pipeline
        except BaseException:
            # Decoding threads may still hold its buffers, so nobody gets it again.
            pipeline.abandon()
            raise
        with self._lock:
            self._idle.append(pipeline)

    def release(self) -> None:
        """Gives graphs, idle buffers and cached memory back to the device."""
        with self._lock:
            self._idle.clear()
        if self._graphs is not None:
            self._graphs.release()
        self.layer.release_cached()

    def describe(self) -> dict[str, Any]:
        """What was decided: batches, the graphs that were captured, the limit that memory set."""
        return {
            "multiprocessors": self.layer.multiprocessors,
            "images a batch": self.batch(None),
            "most images a batch": self._memory.within(self._batching.most),
            "graphs": "launched one by one" if self._graphs is None else self._graphs.sizes,
            "resize": "host" if self._resize is None else "device",
        }

    def _one_batch(self, pixels: Tensor, normalize: bool) -> Tensor:
        if self._graphs is None:
            return self._encode(pixels, normalize)
        return self._graphs.run(pixels, normalize)

    def _idle_pipeline(self, batch: int) -> Pipeline | None:
        """One that is idle and of this size; those of another size go."""
        with self._lock:
            self._idle = [pipeline for pipeline in self._idle if pipeline.batch == batch]
            return self._idle.pop() if self._idle else None

    def _new_pipeline(self, batch_size: int | None) -> Pipeline:
        while True:
            batch = self.batch(batch_size)
            try:
                packed = 0 if self._resize is None else batch * UNRESIZED_BYTES
                return Pipeline(self.layer, batch, *self._row, packed)
            except self.layer.out_of_memory:
                pass
            self._memory.halve(batch)


def _nothing() -> None:
    pass


def _runs(ascending: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Neighbours together: the first one, and how many they are."""
    first = count = 0
    for number in ascending:
        if count and number == first + count:
            count += 1
            continue
        if count:
            yield first, count
        first, count = number, 1
    if count:
        yield first, count


def _even(count: int, limit: int | None) -> list[int]:
    """`count` in pieces of `limit`, and what is left."""
    whole, rest = divmod(count, limit or count)
    return [limit or count] * whole + ([rest] if rest else [])
