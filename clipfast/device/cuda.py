"""A CUDA device as the engine asks for one, through torch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from clipfast.device.layer import Event, Graph, GraphPool, Stream, Tensor, Work


class CudaLayer:
    """One GPU. Several threads may use it, each its own streams."""

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
