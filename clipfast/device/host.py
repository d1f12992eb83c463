"""The CPU as a device: streams are queues, so that work whose order nothing guarantees really runs out of order.

A stream named in `lazy` runs nothing until something waits for it, which is the latest that a device may; the others
run at once, which is the earliest. A copy that nobody waited for is then seen as wrong numbers. Failures are asked for
by name: `layer.fail("capture")` makes the next capture run out of memory.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from weakref import finalize

import torch

from clipfast.device.layer import Graph, GraphPool, Tensor, Work


class HostMemoryError(RuntimeError):
    """The memory that a HostLayer was told to lack."""


@dataclass
class HostStream:
    """queue: submitted and not run. done: how many have run."""

    name: str
    lazy: bool = False
    queue: deque[Work] = field(default_factory=deque)
    done: int = 0
    running: bool = False

    def submitted(self) -> int:
        return self.done + self.running + len(self.queue)


@dataclass(frozen=True)
class HostEvent:
    """The first `count` pieces of work of a stream."""

    stream: HostStream
    count: int


@dataclass(frozen=True)
class HostGraph:
    work: Callable[[], Tensor]
    result: Tensor

    def replay(self) -> None:
        """Runs the work over the memory that it was captured with."""
        with torch.inference_mode():  # which writes to tensors of either kind
            self.result.copy_(self.work())


class HostLayer:
    """See the module. One thread at a time.

    Args:
        multiprocessors: what batches are planned for.
        lazy: names of the streams that run late.
    """

    out_of_memory: tuple[type[BaseException], ...] = (HostMemoryError,)

    def __init__(self, multiprocessors: int = 132, lazy: Iterable[str] = ()) -> None:
        self.device = torch.device("cpu")
        self.multiprocessors = multiprocessors
        self.lazy = frozenset(lazy)
        self.host_bytes = self.device_bytes = 0
        self.most_host_bytes = self.most_device_bytes = 0
        self._on_device: set[int] = set()
        self._streams: list[HostStream] = []
        self.calls: Counter[str] = Counter()
        self._failing: Counter[str] = Counter()
        self._current = HostStream("default")

    @property
    def waiting(self) -> int:
        """Pieces of work that were submitted and have not run."""
        return sum(len(stream.queue) for stream in self._streams)

    def fail(self, operation: str, times: int = 1) -> None:
        """The next `times` calls of a method ("submit", "capture", "host_buffer", "device_buffer") lack memory."""
        self._failing[operation] += times

    def holds(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._on_device

    def active(self) -> AbstractContextManager[object]:
        self.calls["active"] += 1
        return nullcontext()

    def stream(self, name: str) -> HostStream:
        stream = HostStream(name, name in self.lazy)
        self._streams.append(stream)
        return stream

    def current_stream(self) -> HostStream:
        return self._current

    def submit(self, stream: HostStream, work: Work) -> None:
        self._enter("submit")
        stream.queue.append(work)
        if not stream.lazy:
            self._run(stream, stream.submitted())

    def record(self, stream: HostStream, event: HostEvent | None = None) -> HostEvent:
        return HostEvent(stream, stream.done + 1 if stream.running else stream.submitted())

    def wait(self, stream: HostStream, event: HostEvent) -> None:
        if event.stream is stream:
            return
        if stream.running or stream is self._current:
            self.synchronize(event)
        else:
            stream.queue.append(lambda: self.synchronize(event))

    def synchronize(self, event: HostEvent) -> None:
        self._run(event.stream, event.count)

    def host_buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        self._enter("host_buffer")
        with torch.inference_mode(False):
            buffer = torch.empty(shape, dtype=dtype)
        self.host_bytes += buffer.nbytes
        self.most_host_bytes = max(self.most_host_bytes, self.host_bytes)
        finalize(buffer, self._freed, buffer.nbytes, 0, 0)
        return buffer

    def device_buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        self._enter("device_buffer")
        with torch.inference_mode(False):
            buffer = torch.zeros(shape, dtype=dtype)
        self.device_bytes += buffer.nbytes
        self.most_device_bytes = max(self.most_device_bytes, self.device_bytes)
        self._on_device.add(buffer.data_ptr())
        finalize(buffer, self._freed, 0, buffer.nbytes, buffer.data_ptr())
        return buffer

    def graph_pool(self) -> GraphPool:
        return object()

    def capture(self, work: Callable[[], Tensor], pool: GraphPool) -> tuple[Graph, Tensor]:
        self._enter("capture")
        result = work().clone()
        return HostGraph(work, result), result

    def release_cached(self) -> None:
        self._enter("release_cached")

    def _enter(self, operation: str) -> None:
        self.calls[operation] += 1
        if self._failing[operation]:
            self._failing[operation] -= 1
            raise HostMemoryError(f"told to fail: {operation}")

    def _freed(self, host: int, device: int, pointer: int) -> None:
        self.host_bytes -= host
        self.device_bytes -= device
        self._on_device.discard(pointer)

    def _run(self, stream: HostStream, count: int) -> None:
        """Runs the stream's work up to its first `count` pieces; a piece that is running counts as run."""
        while stream.done + stream.running < count:
            work, before = stream.queue.popleft(), self._current
            stream.running, self._current = True, stream
            try:
                work()
            finally:
                stream.running, self._current = False, before
                stream.done += 1
