"""A TensorRT engine as a tower: torch tensors on the engine's own stream, a CUDA graph per batch bucket.

Batches are cut to the profiles' largest size and padded up to a bucket (a power of two, or a profile's end), so that
few shapes occur. Each bucket has its own execution context, persistent buffers and graph, made at its first batch: one
plain enqueue, because TensorRT initialises in it, then a capture. Memory: one context's activations a used bucket.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from clipfast.errors import BuildError, CheckpointError, UnsupportedError
from clipfast.runtimes.metadata import TowerMetadata
from clipfast.runtimes.plan import Profile, read_sidecar
from clipfast.runtimes.tensorrt import import_tensorrt, load_engine, tensorrt_logger

if TYPE_CHECKING:
    import tensorrt as trt

logger = logging.getLogger("clipfast")


@dataclass
class _Slot:
    """What serves one bucket. graph: None where TensorRT's enqueue cannot be captured."""

    context: trt.IExecutionContext
    rows: torch.Tensor
    out: torch.Tensor
    graph: torch.cuda.CUDAGraph | None = None


class EngineTower:
    """One plan on one CUDA device.

    Raises: as `load_engine`; CheckpointError for a plan whose tensors are not those of its sidecar.
    """

    def __init__(self, path: Path, device: torch.device, *, cuda_graphs: bool = True) -> None:
        if device.type != "cuda":
            raise UnsupportedError(
                f"{path}: a TensorRT engine runs on a CUDA device, got {device}; load the ONNX files beside it for "
                "the CPU"
            )
        sidecar = read_sidecar(path)
        self.metadata: TowerMetadata = sidecar.metadata(path)
        self.device = torch.device(
            "cuda", torch.cuda.current_device() if device.index is None else device.index
        )
        self._path = path
        self._engine: trt.ICudaEngine = load_engine(path, sidecar, self.device)
        self.profiles = sidecar.profiles
        self._cuda_graphs = cuda_graphs
        self._dtype = self._check_tensors()
        self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._slots: dict[int, _Slot] = {}
        self._lock = threading.Lock()

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """(B, *row_shape), on any device -> (B, E) float32 on the engine's."""
        if not len(rows):
            return torch.empty(0, self.metadata.config.embed_dim, device=self.device)
        with self._lock, torch.cuda.device(self.device):
            parts = [
                self._run(rows[start:stop], bucket)
                for start, stop, bucket in chunks(len(rows), self.profiles)
            ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _run(self, rows: torch.Tensor, bucket: int) -> torch.Tensor:
        caller = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(caller)
        with torch.cuda.stream(self._stream):
            if bucket not in self._slots:
                self._slots[bucket] = self._make_slot(bucket)
            slot = self._slots[bucket]
            slot.rows[: len(rows)].copy_(rows, non_blocking=True)
            slot.rows[len(rows) :].zero_()
            if slot.graph is not None:
                slot.graph.replay()
            else:
                self._enqueue(slot)
            out = slot.out[: len(rows)].clone()
        caller.wait_stream(self._stream)
        if rows.is_cuda:
            rows.record_stream(self._stream)
        out.record_stream(caller)
        return out

    def _make_slot(self, bucket: int) -> _Slot:
        """A context with bound buffers, run once, captured if it can be."""
        context = self._engine.create_execution_context()
        if context is None:
            raise BuildError(f"{self._path}: no execution context: {tensorrt_logger().tail()}")
        profile = profile_of(bucket, self.profiles)
        stream = self._stream.cuda_stream
        if profile and not context.set_optimization_profile_async(profile, stream):
            raise BuildError(f"{self._path}: profile {profile}: {tensorrt_logger().tail()}")
        m = self.metadata
        slot = _Slot(
            context,
            torch.zeros((bucket, *m.row_shape), dtype=self._dtype, device=self.device),
            torch.empty((bucket, m.config.embed_dim), dtype=torch.float32, device=self.device),
        )
        if not context.set_input_shape(m.input_name, tuple(slot.rows.shape)):
            raise BuildError(
                f"{self._path}: batch {bucket} is outside its profiles {self.profiles}: {tensorrt_logger().tail()}"
            )
        missing = context.infer_shapes()
        if missing:
            raise BuildError(f"{self._path}: shapes of {missing} are not determined by the batch")
        context.set_tensor_address(m.input_name, slot.rows.data_ptr())
        context.set_tensor_address(m.output_name, slot.out.data_ptr())
        self._enqueue(slot)
        self._stream.synchronize()
        if self._cuda_graphs:
            slot.graph = self._capture(slot)
        return slot

    def _enqueue(self, slot: _Slot) -> None:
        if not slot.context.execute_async_v3(self._stream.cuda_stream):
            raise BuildError(f"{self._path}: TensorRT failed to run: {tensorrt_logger().tail()}")

    def _capture(self, slot: _Slot) -> torch.cuda.CUDAGraph | None:
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may allocate meanwhile: their calls are no part of the capture, and must not end it.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                captured = slot.context.execute_async_v3(self._stream.cuda_stream)
        except RuntimeError as error:  # CUDA's, where the enqueue did what no capture may hold
            captured = False
            logger.info("%s: %s", self._path, error)
        if captured:
            return graph
        logger.info("%s: its enqueue cannot be captured, it runs without CUDA graphs", self._path)
        return None

    def _check_tensors(self) -> torch.dtype:
        """The engine's tensors are the sidecar's; returns the input's dtype."""
        engine = self._engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        expected = [self.metadata.input_name, self.metadata.output_name]
        if names != expected:
            raise CheckpointError(
                f"{self._path}: its tensors are {names}, its JSON says {expected}; build the engine again"
            )
        return _torch_dtypes()[engine.get_tensor_dtype(names[0])]


def _torch_dtypes() -> dict[Any, torch.dtype]:
    """Of the tensors that engines read; TensorRT's own table is for numpy, which has no bfloat16."""
    trt = import_tensorrt()
    return {
        trt.DataType.FLOAT: torch.float32,
        trt.DataType.INT32: torch.int32,
        trt.DataType.UINT8: torch.uint8,
    }


def chunks(count: int, profiles: tuple[Profile, ...]) -> Iterator[tuple[int, int, int]]:
    """(start, stop, bucket) for `count` rows: pieces of the largest batch, then what is left.

    A bucket is the batch that runs: the smallest power of two, or end of a profile, that holds the piece.
    """
    largest = max(profile[2] for profile in profiles)
    for start in range(0, count, largest):
        rows = min(largest, count - start)
        yield start, start + rows, bucket_of(rows, profiles)


def bucket_of(rows: int, profiles: tuple[Profile, ...]) -> int:
    """The smallest batch of at least `rows` that some profile has, of powers of two and the profiles' ends."""
    power = 1 << (rows - 1).bit_length()
    ends = (end for smallest, _, largest in profiles for end in (smallest, largest))
    candidates = [size for size in (power, *ends) if size >= rows]
    return min(size for size in candidates if any(low <= size <= high for low, _, high in profiles))


def profile_of(batch: int, profiles: tuple[Profile, ...]) -> int:
    """The index of the profile that has `batch` and whose usual batch is nearest to it."""
    fitting = [i for i, (low, _, high) in enumerate(profiles) if low <= batch <= high]
    return min(fitting, key=lambda i: abs(profiles[i][1] - batch))
