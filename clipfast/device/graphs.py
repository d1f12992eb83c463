"""One graph for each size of batch that is asked for: a launch of hundreds of kernels becomes one.

    rows = graphs.run(items, normalize)      # copied in, replayed, copied out, all on the caller's stream

A batch is padded to its bucket. A graph is captured when its bucket is first used. All of them share one pool and one
input, so two never run at once: each waits, on the device, for the one before it. Where their memory is missing, or the
device refuses to capture, the kernels are launched one by one as they would be without graphs.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from clipfast.device.layer import DeviceLayer, Event, Graph, GraphPool, Tensor

Encode = Callable[[Tensor, bool], Tensor]

logger = logging.getLogger("clipfast")
# A capture fails when another thread waits for the whole device meanwhile; one that fails again has another cause.
_TRIES = 2


@dataclass(frozen=True)
class _Captured:
    """input: the bucket's part of what the graphs share."""

    graph: Graph
    input: Tensor
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
        self._refused: Counter[int] = Counter()
        self._input: Tensor | None = None
        self._pool: GraphPool = None
        self._last: Event | None = None

    @property
    def sizes(self) -> list[int]:
        """Buckets that have a graph."""
        return sorted({bucket for bucket, _ in list(self._captured)})

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
        rows = ordinary(_first(captured.output, count))
        self._last = self._layer.record(self._layer.current_stream(), self._last)
        return rows

    def _filled(self, bucket: int, normalize: bool, items: Tensor) -> _Captured | None:
        """The bucket's graph with `items` as its input, captured now if it has none; None where it cannot be."""
        known = self._captured.get((bucket, normalize))
        if known is None and (bucket >= self._too_large or self._refused[bucket] == _TRIES):
            return None
        try:
            captured = known or self._capture(bucket, normalize, items)
            if known is not None:
                self._fill(known.input, items)
        except self._layer.out_of_memory:
            captured, self._too_large = None, bucket
        if captured is None:
            self._forget()
            self._layer.release_cached()
        else:
            self._captured[bucket, normalize] = captured
        return captured

    def _fill(self, part: Tensor, items: Tensor) -> None:
        if self._last is not None:
            self._layer.wait(self._layer.current_stream(), self._last)
        _first(part, len(items)).copy_(items, non_blocking=True)

    def _capture(self, bucket: int, normalize: bool, items: Tensor) -> _Captured | None:
        """None where the device refuses; should the kernels be at fault, launching them will say so."""
        if self._input is None:
            self._input = self._layer.device_buffer(self._shape, self._dtype)
            self._pool = self._layer.graph_pool()
        part = self._input[:bucket]
        self._fill(part, items)  # a capture runs the kernels once: what they read then is real
        try:
            graph, output = self._layer.capture(partial(self._encode, part, normalize), self._pool)
        except self._layer.out_of_memory:
            raise
        except RuntimeError as error:
            self._refused[bucket] += 1
            logger.warning("%s took no graph of %d: %s", self._layer.device, bucket, str(error))
            return None
        return _Captured(graph, part, output)

    def _forget(self) -> None:
        if self._last is not None:
            self._layer.synchronize(self._last)
        self._captured.clear()
        self._input = self._pool = self._last = None


def ordinary(rows: Tensor) -> Tensor:
    """A copy that is usable with autograd, also of rows that were made in inference mode."""
    if not torch.is_inference_mode_enabled():
        return rows.clone()
    with torch.inference_mode(False):
        return rows.clone()


def _first(rows: Tensor, count: int) -> Tensor:
    return rows if len(rows) == count else rows[:count]
