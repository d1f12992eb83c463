"""A fixed number of pinned buffers, used in turn: what is in flight between host and device is bounded by them."""

from __future__ import annotations

from collections import deque

import torch

from clipfast.device.layer import DeviceLayer, Event, Tensor


class Ring:
    """`slots` buffers of (rows, *shape). Each is free, held by the host, or busy until an event.

    Args:
        slots: more than the host ever holds at once.
    """

    def __init__(
        self,
        layer: DeviceLayer,
        slots: int,
        rows: int,
        shape: tuple[int, ...],
        dtype: torch.dtype,
    ) -> None:
        self._layer = layer
        self.rows = rows
        self.buffer = layer.host_buffer((slots, rows, *shape), dtype)
        self._free = deque(range(slots))
        self._busy: deque[tuple[int, Event]] = deque()
        self._held: set[int] = set()

    def take(self, count: int) -> Tensor:
        """(count, *shape) of a buffer, held until it is given back; waits for the device when none is free."""
        assert count <= self.rows, f"{count} rows of a buffer of {self.rows}"
        if not self._free:
            assert self._busy, f"the host holds all {len(self.buffer)} buffers"
            slot, event = self._busy.popleft()
            self._layer.synchronize(event)
            self._free.append(slot)
        slot = self._free.popleft()
        self._held.add(slot)
        self._check()
        return self.buffer[slot, :count]

    def holds(self, rows: Tensor) -> bool:
        """Whether `rows` are the first rows of a buffer that the host holds."""
        slot, inside = self._place(rows)
        return inside == 0 and slot in self._held and rows.dtype == self.buffer.dtype

    def give(self, rows: Tensor, event: Event | None = None) -> None:
        """The buffer of `rows` is free, or will be when the event happens."""
        slot, _ = self._place(rows)
        self._held.remove(slot)
        if event is None:
            self._free.append(slot)
        else:
            self._busy.append((slot, event))
        self._check()

    def _place(self, rows: Tensor) -> tuple[int, int]:
        """The buffer, and the byte in it, where `rows` begin; no rows begin somewhere too."""
        begin = rows.untyped_storage().data_ptr() + int(rows.storage_offset()) * rows.itemsize
        return divmod(begin - self.buffer.data_ptr(), self.buffer[0].nbytes)

    def _check(self) -> None:
        states = [*self._free, *(slot for slot, _ in self._busy), *self._held]
        assert sorted(states) == list(range(len(self.buffer))), "a buffer is lost, or in two hands"
