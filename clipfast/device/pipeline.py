"""Batches from the host through a device: while one is computed, the next is copied in and the last one back.

    decode threads -> pinned ring -> copy stream -> two device buffers -> compute stream -> back stream -> pinned ring

Every hand-over is an event; the host waits only for a result, or for a free buffer. The memory of a pipeline is made
with it and never grows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from clipfast.device.layer import DeviceLayer, Event, Tensor
from clipfast.device.ring import Ring

# Two batches that decode ahead, one in the caller's hands, two that are copied or wait for it.
_PIXEL_BUFFERS = 5
_DEVICE_BUFFERS = 2
_IN_FLIGHT = 2

Encode = Callable[[Tensor], Tensor]
# (bytes,) uint8 on the device, and rows of a batch there, some of which it writes.
Unpack = Callable[[Tensor, Tensor], None]
# Positions in the input, and their rows on the host, which are valid until the next ones are asked for.
Rows = tuple[list[int], Tensor]


@dataclass(frozen=True)
class _Result:
    """rows: on the host when `done` has happened. encoded: their source on the device, alive until then: its memory is
    the compute stream's, which would use it again."""

    indices: list[int]
    rows: Tensor
    done: Event
    encoded: list[Tensor]


class Pipeline:
    """One thread's way through the device.

    Args:
        batch: most images a batch. shape: of one image, uint8. width, dtype: of a row.
        packed: bytes a batch that travel beside its images, for the device to make some of them.
    """

    def __init__(
        self,
        layer: DeviceLayer,
        batch: int,
        shape: tuple[int, ...],
        width: int,
        dtype: torch.dtype,
        packed: int = 0,
    ) -> None:
        self._layer = layer
        self.batch = batch
        self._pixels = Ring(layer, _PIXEL_BUFFERS, batch, shape, torch.uint8)
        self._rows = Ring(layer, _IN_FLIGHT + 1, batch, (width,), dtype)
        self._buffers = [
            layer.device_buffer((batch, *shape), torch.uint8) for _ in range(_DEVICE_BUFFERS)
        ]
        self._packed = Ring(layer, _PIXEL_BUFFERS, packed, (), torch.uint8) if packed else None
        self._packed_buffers = [
            layer.device_buffer((packed,), torch.uint8)
            for _ in range(_DEVICE_BUFFERS if packed else 0)
        ]
        # When the computation that last read each buffer is done.
        self._read: list[Event | None] = [None] * _DEVICE_BUFFERS
        self._copy, self._compute, self._back = map(layer.stream, ("copy", "compute", "back"))
        self._results: deque[_Result] = deque()
        self._turn = 0

    def allocate(self, count: int) -> Tensor:
        """(count, *shape) uint8 to decode into; `put` takes it back."""
        return self._pixels.take(count)

    def allocate_packed(self) -> Tensor | None:
        """(packed,) bytes to fill, which `put` takes back; None where a batch has none."""
        return None if self._packed is None else self._packed.take(self._packed.rows)

    def put(
        self,
        encode: Encode,
        indices: list[int],
        pixels: Tensor,
        packed: Tensor | None = None,
        unpack: Unpack | None = None,
    ) -> Iterator[Rows]:
        """Starts one batch; gives what is finished, so that no more than two are under way.

        Args:
            encode: (b, *shape) uint8 on the device -> (b, width) on the device.
            indices: b positions in the input.
            pixels: (b, *shape) uint8 on the host, from `allocate` or not. b <= batch.
            packed: from `allocate_packed`, or its first bytes. unpack: what the device does with them before encode.
        """
        held = pixels if self._pixels.holds(pixels) else self._staged(pixels)
        if not len(pixels):
            self._give(held, packed, None)
            return
        copied, buffer = self._copy_in(held, packed)
        self._give(held, packed, copied)
        if unpack is not None and packed is not None:
            encode = _unpacked_first(encode, unpack, self._packed_buffers[buffer][: len(packed)])
        self._results.append(self._compute_and_copy_back(encode, indices, copied, buffer))
        while len(self._results) > _IN_FLIGHT:
            yield from self._oldest()

    def finish(self) -> Iterator[Rows]:
        """Everything that is still under way."""
        while self._results:
            yield from self._oldest()

    def abandon(self) -> None:
        """Waits until the device is done with the buffers: after an error they go, and others get their memory."""
        for stream in (self._copy, self._compute, self._back):
            self._layer.synchronize(self._layer.record(stream))
        self._results.clear()

    def _staged(self, pixels: Tensor) -> Tensor:
        held = self._pixels.take(len(pixels))
        held.copy_(pixels)
        return held

    def _give(self, held: Tensor, packed: Tensor | None, copied: Event | None) -> None:
        """Both buffers of a batch are free, or will be when they are copied."""
        self._pixels.give(held, copied)
        if packed is not None:
            assert self._packed is not None, "it was allocated here"
            self._packed.give(packed, copied)

    def _copy_in(self, held: Tensor, packed: Tensor | None) -> tuple[Event, int]:
        """Submits the copy to the next device buffer: when it is done, and which buffer it is."""
        index, self._turn = self._turn, (self._turn + 1) % _DEVICE_BUFFERS
        target, read = self._buffers[index][: len(held)], self._read[index]
        if read is not None:
            self._layer.wait(self._copy, read)
        self._layer.submit(self._copy, lambda: _copy(target, held))
        if packed is not None:
            beside = self._packed_buffers[index][: len(packed)]
            self._layer.submit(self._copy, lambda: _copy(beside, packed))
        return self._layer.record(self._copy), index

    def _compute_and_copy_back(
        self, encode: Encode, indices: list[int], copied: Event, index: int
    ) -> _Result:
        source, out = self._buffers[index][: len(indices)], self._rows.take(len(indices))
        encoded: list[Tensor] = []
        self._layer.wait(self._compute, copied)
        self._layer.submit(self._compute, lambda: encoded.append(encode(source)))
        self._read[index] = computed = self._layer.record(self._compute)
        self._layer.wait(self._back, computed)
        self._layer.submit(self._back, lambda: _copy(out, encoded[0]))
        done = self._layer.record(self._back)
        return _Result(indices, out, done, encoded)

    def _oldest(self) -> Iterator[Rows]:
        result = self._results.popleft()
        self._layer.synchronize(result.done)
        yield result.indices, result.rows
        self._rows.give(result.rows)


def _unpacked_first(encode: Encode, unpack: Unpack, packed: Tensor) -> Encode:
    def unpack_and_encode(rows: Tensor) -> Tensor:
        unpack(packed, rows)
        return encode(rows)

    return unpack_and_encode


def _copy(target: Tensor, source: Tensor) -> None:
    target.copy_(source, non_blocking=True)
