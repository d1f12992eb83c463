"""One graph for each size of batch that is asked for: a launch of hundreds of kernels becomes one.

    rows = graphs.run(items, normalize)      # copied in, replayed, copied out, all on the caller's stream

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
        encode: (b, *shape), normalize -> (b, E), or fewer rows; nothing in it waits for the device.
        bucket: of a batch's size. shape, dtype: of an item. most: the largest bucket.
    """

    def __init__(
        self,
        layer: DeviceLayer,
        encode: Encode,
        bucket: Callable[[int], int],
        shape: tuple[int, ...],
        most: int,
        dtype: torch.dtype = torch.uint8,
    ) -> None:
        self._layer = layer
        self._encode = encode
        self._bucket = bucket
        self._shape = (most, *shape)
        self._dtype = dtype
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

    def run(self, items: Tensor, normalize: bool) -> Tensor:
        """encode(items, normalize) for items on the device, in the order of the current stream."""
        if items.dtype != self._dtype or not 0 < len(items) <= self._shape[0]:
            return self._encode(items, normalize)
        with self._lock:
            captured = self._filled(self._bucket(len(items)), normalize, items)
            if captured is not None:
                return self._replay(captured, len(items))
        return self._encode(items, normalize)

    def release(self) -> None:
        """Gives every graph and its memory back; they are captured again when they are used again."""
        with self._lock:
            self._forget()
        self._layer.release_cached()

    def _replay(self, captured: _Captured, count: int) -> Tensor:
        captured.graph.replay()
        with torch.inference_mode(False):
            rows = captured.output[:count].clone()
        self._last = self._layer.record(self._layer.current_stream())
        return rows

    def _filled(self, bucket: int, normalize: bool, items: Tensor) -> _Captured | None:
        """The bucket's graph with `items` as its input, captured now if it has none; None where it does not fit."""
        known = self._captured.get((bucket, normalize))
        if known is None and bucket >= self._too_large:
            return None
        try:
            self._fill(items)
            captured = known or self._capture(bucket, normalize)
        except self._layer.out_of_memory:
            captured = None
        if captured is None:
            self._too_large = bucket
            self._forget()
            self._layer.release_cached()
        else:
            self._captured[bucket, normalize] = captured
        return captured

    def _fill(self, items: Tensor) -> None:
        """Before a capture too, which runs the kernels once: what they read then is real."""
        if self._input is None:
            self._input = self._layer.device_buffer(self._shape, self._dtype)
            self._pool = self._layer.graph_pool()
        if self._last is not None:
            self._layer.wait(self._layer.current_stream(), self._last)
        self._input[: len(items)].copy_(items, non_blocking=True)

    def _capture(self, bucket: int, normalize: bool) -> _Captured:
        assert self._input is not None, "it was filled"
        part = self._input[:bucket]
        return _Captured(*self._layer.capture(lambda: self._encode(part, normalize), self._pool))

    def _forget(self) -> None:
        if self._last is not None:
            self._layer.synchronize(self._last)
        self._captured.clear()
        self._input = self._pool = self._last = None
