"""What the engine asks of a device, and CUDA's answer.

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

    def record(self, stream: Stream) -> Event:
        """An event that happens when everything submitted to the stream so far is done."""
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
        """`work` as a graph, and the tensor that every replay writes. Nothing in `work` may wait for the device."""
        ...

    def release_cached(self) -> None:
        """Gives memory that no tensor uses back to the device."""
        ...


class CudaLayer:
    """A CUDA device, through torch."""

    out_of_memory: tuple[type[BaseException], ...] = (torch.OutOfMemoryError,)

    def __init__(self, device: torch.device) -> None:
        index = torch.cuda.current_device() if device.index is None else device.index
        self.device = torch.device("cuda", index)
        self.multiprocessors = torch.cuda.get_device_properties(index).multi_processor_count

    def holds(self, tensor: Tensor) -> bool:
        return tensor.device == self.device

    def active(self) -> AbstractContextManager[object]:
        return torch.cuda.device(self.device)

    def stream(self, name: str) -> Stream:
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self.device))
        return stream

    def current_stream(self) -> Stream:
        return torch.cuda.current_stream(self.device)

    def submit(self, stream: Stream, work: Work) -> None:
        with torch.cuda.stream(stream):
            work()

    def record(self, stream: Stream) -> Event:
        return stream.record_event()

    def wait(self, stream: Stream, event: Event) -> None:
        stream.wait_event(event)

    def synchronize(self, event: Event) -> None:
        event.synchronize()

    def host_buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        with torch.inference_mode(False):
            return torch.empty(shape, dtype=dtype, pin_memory=True)

    def device_buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        with torch.inference_mode(False):
            return torch.zeros(shape, dtype=dtype, device=self.device)

    def graph_pool(self) -> GraphPool:
        return torch.cuda.graph_pool_handle()

    def capture(self, work: Callable[[], Tensor], pool: GraphPool) -> tuple[Graph, Tensor]:
        stream = self.stream("capture")
        with torch.cuda.stream(stream):
            work()  # compiles kernels and loads libraries, which a capture may not
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Other threads allocate pinned memory meanwhile, which a global capture would forbid.
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            result = work()
        return graph, result

    def release_cached(self) -> None:
        torch.cuda.empty_cache()
