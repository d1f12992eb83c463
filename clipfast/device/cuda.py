"""A CUDA device as the engine asks for one, through torch."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch

from clipfast.device.layer import Event, Graph, Stream, Tensor, Work

# A capture begins with the host waiting for the whole device, which breaks a capture that is under way on it.
_CAPTURING = threading.Lock()


@dataclass(frozen=True)
class _GraphPool:
    """stream: what every graph of the pool is captured on, since memory is used again on the stream it came from."""

    handle: Any
    stream: Stream


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
        with torch.cuda.stream(stream), _memory_errors():
            work()

    def record(self, stream: Stream, event: Event = None) -> Event:
        return stream.record_event(event)

    def wait(self, stream: Stream, event: Event) -> None:
        stream.wait_event(event)

    def synchronize(self, event: Event) -> None:
        event.synchronize()

    def host_buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        with torch.inference_mode(False), _memory_errors():
            return torch.empty(shape, dtype=dtype, pin_memory=True)

    def device_buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        with torch.inference_mode(False):
            return torch.zeros(shape, dtype=dtype, device=self.device)

    def graph_pool(self) -> _GraphPool:
        # Streams come round again after 32 of a priority: of this one, nobody else here takes any.
        stream = torch.cuda.Stream(self.device, priority=-1)  # type: ignore[no-untyped-call]
        return _GraphPool(torch.cuda.graph_pool_handle(), stream)

    def capture(self, work: Callable[[], Tensor], pool: _GraphPool) -> tuple[Graph, Tensor]:
        pool.stream.wait_stream(self.current_stream())
        # Where the end of a capture fails, the outer context gives the caller's stream back; the inner one does not.
        with _memory_errors(), torch.cuda.stream(pool.stream):
            work()  # compiles kernels and loads libraries, which a capture may not
            pool.stream.synchronize()
            with _CAPTURING, _no_collection(), _clean_workspaces(), self._pool_ended(pool):
                graph = torch.cuda.CUDAGraph()
                # Other threads allocate memory meanwhile, which a global capture would forbid.
                with torch.cuda.graph(graph, pool.handle, pool.stream, "thread_local"):
                    result = work()
        return graph, result

    def release_cached(self) -> None:
        with _CAPTURING:  # during a capture nothing would be given back
            torch.cuda.empty_cache()

    @contextmanager
    def _pool_ended(self, pool: _GraphPool) -> Iterator[None]:
        """A capture that failed leaves the pool as one that a capture still fills; no other could then begin."""
        try:
            yield
        except BaseException:
            with suppress(RuntimeError):  # where torch has ended it
                torch._C._cuda_endAllocateToPool(self.device.index, pool.handle)  # noqa: SLF001
            raise


@contextmanager
def _clean_workspaces() -> Iterator[None]:
    """cuBLAS's workspace comes from the graph's memory: one from outside goes when anybody clears workspaces."""
    torch._C._cuda_clearCublasWorkspaces()  # noqa: SLF001
    try:
        yield
    finally:
        torch._C._cuda_clearCublasWorkspaces()  # noqa: SLF001


@contextmanager
def _no_collection() -> Iterator[None]:
    """Garbage that holds a graph would destroy it, which no capture survives."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Only torch's allocator has an error of its own for it; pinned memory, graphs and modules just say so."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        raise torch.OutOfMemoryError(str(error)) from None
