"""What the engine asks of a device.

Work of one stream runs in the order of its submission; streams run beside each other, but where one waits for an
event of another. Buffers that a copy crosses between host and device are pinned.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

Tensor = torch.Tensor
Work = Callable[[], None]
# Each layer's own; made by it and given back to it, never looked into.
Stream = Any
Event = Any
GraphPool = Any


class Graph(Protocol):
    """A captured sequence of kernels."""

    def replay(self) -> None:
        """Runs it once more, on the current stream, over the same memory."""
        ...


class DeviceLayer(Protocol):
    """One device. Several threads may use it, each its own streams."""

    device: torch.device
    multiprocessors: int
    out_of_memory: tuple[type[BaseException], ...]
    """The errors that say so; they come from `submit`, `capture` and the buffers."""

    def holds(self, tensor: Tensor) -> bool:
        """Whether the tensor lies in this device's memory."""
        ...

    def active(self) -> AbstractContextManager[object]:
        """While it is open, this thread launches on this device."""
        ...

    def stream(self, name: str) -> Stream:
        """A new stream, behind everything that the device was given so far."""
        ...

    def current_stream(self) -> Stream:
        """The caller's."""
        ...

    def submit(self, stream: Stream, work: Work) -> None:
        """Runs `work` with `stream` as the current one; what it launches is asynchronous."""
        ...

    def record(self, stream: Stream, event: Event = None) -> Event:
        """An event that happens when everything submitted to the stream so far is done.

        event: one that nobody will wait for any more, to be used again.
        """
        ...

    def wait(self, stream: Stream, event: Event) -> None:
        """What is submitted to the stream from now on starts after the event; the host does not wait."""
        ...

    def synchronize(self, event: Event) -> None:
        """The host waits for the event."""
        ...

    def host_buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Pinned host memory, not initialised; an ordinary tensor, also when asked for in inference mode."""
        ...

    def device_buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Device memory of zeros; an ordinary tensor, also when asked for in inference mode."""
        ...

    def graph_pool(self) -> GraphPool:
        """Memory that graphs share which never run at the same time."""
        ...

    def capture(self, work: Callable[[], Tensor], pool: GraphPool) -> tuple[Graph, Tensor]:
        """`work` as a graph, and the tensor that every replay writes. Nothing in `work` may wait for the device.

        A RuntimeError that is none of `out_of_memory` says nothing of `work`: a device may refuse to capture because of
        what another thread does with it.
        """
        ...

    def release_cached(self) -> None:
        """Gives memory that no tensor uses back to the device."""
        ...
