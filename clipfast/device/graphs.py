"""One graph for each size of batch that is asked for: a launch of hundreds of kernels becomes one.

    rows = graphs.run(pixels, normalize)      # copied in, replayed, copied out, all on the caller's stream

A batch is padded to its bucket. A graph is captured when its bucket is first used. All of them share one pool and one
input, so two never run at once: each waits, on the device, for the one before it. Where their memory is missing, the
kernels are launched one by one as they would be without graphs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch

from clipfast.device.layer import DeviceLayer, Event, Graph, GraphPool, Tensor

Encode = Callable[[Tensor, bool], Tensor]


@dataclass(frozen=True)
class _Captured:
    graph: Graph
    output: Tensor


class Graphs:
    """Graphs of one encoder. Several threads may use them.

    Args:
        encode: (b, *shape) uint8, normalize -> (b, E); nothing in it waits for the device.
        bucket: of a batch's size. most: the largest bucket.
    """

    def __init__(
        self,
        layer: DeviceLayer,
        encode: Encode,
        bucket: Callable[[int], int],
        shape: tuple[int, ...],
        most: int,
    ) -> None:
        self._layer = layer
        self._encode = encode
        self._bucket = bucket
        self._shape = (most, *shape)
        self._lock = threading.Lock()
        self._captured: dict[tuple[int, bool], _Captured] = {}
        self._too_large = most + 1
        self._input: Tensor | None = None
        self._pool: GraphPool = None
        self._last: Event | None = None

    @property
    def sizes(self) -> list[int]:
        """Buckets that have a graph."""
        return sorted({bucket for bucket, _ in self._captured})

    def run(self, pixels: Tensor, normalize: bool) -> Tensor:
        """encode(pixels, normalize) for pixels on the device, in the order of the current stream."""
        if pixels.dtype != torch.uint8 or not 0 < len(pixels) <= self._shape[0]:
            return self._encode(pixels, normalize)
        with self._lock:
            captured = self._of(self._bucket(len(pixels)), normalize)
            if captured is not None:
                return self._replay(captured, pixels)
        return self._encode(pixels, normalize)

    def release(self) -> None:
        """Gives every graph and its memory back; they are captured again when they are used again."""
        with self._lock:
            self._forget()
        self._layer.release_cached()

    def _replay(self, captured: _Captured, pixels: Tensor) -> Tensor:
        assert self._input is not None, "every graph was captured over it"
        stream = self._layer.current_stream()
        if self._last is not None:
            self._layer.wait(stream, self._last)
        self._input[: len(pixels)].copy_(pixels, non_blocking=True)
        captured.graph.replay()
        with torch.inference_mode(False):
            rows = captured.output[: len(pixels)].clone()
        self._last = self._layer.record(stream)
        return rows

    def _of(self, bucket: int, normalize: bool) -> _Captured | None:
        """The bucket's graph, captured now if it has none; None where it does not fit."""
        known = self._captured.get((bucket, normalize))
        if known is not None or bucket >= self._too_large:
            return known
        try:
            captured = self._capture(bucket, normalize)
        except self._layer.out_of_memory:
            captured = None
        if captured is None:
            self._too_large = bucket
            self._forget()
            self._layer.release_cached()
        else:
            self._captured[bucket, normalize] = captured
        return captured

    def _capture(self, bucket: int, normalize: bool) -> _Captured:
        if self._input is None:
            self._input = self._layer.device_buffer(self._shape, torch.uint8)
            self._pool = self._layer.graph_pool()
        part = self._input[:bucket]
        return _Captured(*self._layer.capture(lambda: self._encode(part, normalize), self._pool))

    def _forget(self) -> None:
        if self._last is not None:
            self._layer.synchronize(self._last)
        self._captured.clear()
        self._input = self._pool = self._last = None
