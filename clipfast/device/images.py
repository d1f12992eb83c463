"""Images through one device: any number in, in batches that fill it, through graphs, within its memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from clipfast.device.batching import Batching
from clipfast.device.graphs import Encode, Graphs
from clipfast.device.layer import DeviceLayer, Tensor
from clipfast.device.memory import MemoryLimit
from clipfast.device.pipeline import Pipeline


class DeviceImages:
    """The image encoder of one device. Several threads may use it.

    Args:
        encode: (b, *shape) on the device, normalize -> (b, width) on the device.
        shape: of one image. width, dtype: of a row.
        graphs: whether `encode` can be captured: nothing in it waits for the device.
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
    ) -> None:
        self.layer = layer
        self.shape = shape
        self._encode = encode
        self._batching = batching
        self._row = (shape, width, dtype)
        self._graphs = (
            Graphs(layer, encode, batching.bucket, shape, batching.most) if graphs else None
        )
        self._memory = MemoryLimit(layer, self._release_graphs)
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
        with torch.inference_mode(False):  # ordinary tensors leave, usable with autograd
            return rows.clone() if rows.is_inference() else rows

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
        self._release_graphs()
        self.layer.release_cached()

    def describe(self) -> dict[str, Any]:
        """What was decided: batches, the graphs that were captured, the limit that memory set."""
        return {
            "multiprocessors": self.layer.multiprocessors,
            "images a batch": self.batch(None),
            "most images a batch": self._memory.within(self._batching.most),
            "graphs": "launched one by one" if self._graphs is None else self._graphs.sizes,
        }

    def _one_batch(self, pixels: Tensor, normalize: bool) -> Tensor:
        if self._graphs is None:
            return self._encode(pixels, normalize)
        return self._graphs.run(pixels, normalize)

    def _release_graphs(self) -> None:
        if self._graphs is not None:
            self._graphs.release()

    def _idle_pipeline(self, batch: int) -> Pipeline | None:
        """One that is idle and of this size; those of another size go."""
        with self._lock:
            self._idle = [pipeline for pipeline in self._idle if pipeline.batch == batch]
            return self._idle.pop() if self._idle else None

    def _new_pipeline(self, batch_size: int | None) -> Pipeline:
        while True:
            batch = self.batch(batch_size)
            try:
                return Pipeline(self.layer, batch, *self._row)
            except self.layer.out_of_memory:
                pass
            self._memory.halve(batch)


def _even(count: int, limit: int | None) -> list[int]:
    """`count` in pieces of `limit`, and what is left."""
    whole, rest = divmod(count, limit or count)
    return [limit or count] * whole + ([rest] if rest else [])
