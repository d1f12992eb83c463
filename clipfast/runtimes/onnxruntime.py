"""Exported towers in ONNX Runtime: torch tensors bound in place, on the provider that was asked for or not at all."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipfast.errors import CheckpointError, DependencyError, UnsupportedError
from clipfast.runtimes.metadata import TowerMetadata

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_NUMPY = {torch.uint8: np.uint8, torch.float32: np.float32, torch.int32: np.int32}


class OnnxTower:
    """One ONNX file as a session.

    Args:
        path: an export of clipfast.
        device: cpu, or cuda with onnxruntime-gpu.
        threads: of the session's own pool; None takes ONNX Runtime's choice, a thread a core.
    Raises:
        DependencyError: ONNX Runtime or its CUDA provider is missing.
        UnsupportedError: the provider has no kernel for the graph.
        CheckpointError: the file is broken, or was not exported by clipfast.
    """

    def __init__(self, path: Path, device: torch.device, threads: int | None = None) -> None:
        self.device = device
        self._session = open_session(path, device, threads)
        properties = self._session.get_modelmeta().custom_metadata_map
        self.metadata = TowerMetadata.from_properties(properties, path)
        self._dtype = _input_dtype(self.metadata)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """(B, *row_shape), on any device -> (B, E) float32 on the session's; at most the largest batch at a time."""
        out = torch.empty(
            (len(rows), self.metadata.config.embed_dim), dtype=torch.float32, device=self.device
        )
        largest = self.metadata.batch[2]
        for start in range(0, len(rows), largest):
            piece = rows[start : start + largest].to(self.device, self._dtype).contiguous()
            self._run(piece, out[start : start + largest])
        return out

    def _run(self, rows: torch.Tensor, out: torch.Tensor) -> None:
        """Bound in place: nothing is copied on the way into the session or out of it."""
        binding = self._session.io_binding()
        for bind, name, tensor in (
            (binding.bind_input, self.metadata.input_name, rows),
            (binding.bind_output, self.metadata.output_name, out),
        ):
            place = (self.device.type, self.device.index or 0)
            bind(name, *place, _NUMPY[tensor.dtype], tuple(tensor.shape), tensor.data_ptr())
        if self.device.type == "cuda":
            # The session has a stream of its own: it may start when `rows` is written, and returns when `out` is.
            torch.cuda.current_stream(self.device).synchronize()
        self._session.run_with_iobinding(binding)


def open_session(path: Path, device: torch.device, threads: int | None = None) -> Any:
    """An onnxruntime.InferenceSession on exactly the provider of `device`. Raises: as `OnnxTower`."""
    ort = import_onnxruntime()
    provider = PROVIDERS.get(device.type, f"provider for {device.type}")
    if provider not in ort.get_available_providers():
        raise DependencyError(
            f"ONNX Runtime {ort.__version__} here has no {provider}; "
            "pip install onnxruntime-gpu (CUDA), or load with device='cpu'"
        )
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors; it warns about every constant it does not fold
    if threads is not None:
        options.intra_op_num_threads = threads
    arguments = {"device_id": device.index or 0, "use_tf32": 0} if device.type == "cuda" else {}
    session = _create(ort, path, options, (provider, arguments))
    session.disable_fallback()
    if session.get_providers()[0] != provider:
        raise DependencyError(
            f"{path}: ONNX Runtime fell back from {provider} to {session.get_providers()[0]}; its CUDA and cuDNN "
            "libraries are missing or do not match: pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )
    return session


def _create(ort: Any, path: Path, options: Any, provider: tuple[str, dict[str, Any]]) -> Any:
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    try:
        return ort.InferenceSession(str(path), options, providers=[provider])
    except state.NotImplemented as error:
        raise UnsupportedError(
            f"{path}: {provider[0]} has no kernel for this graph ({error}); bfloat16 runs on CUDA only: "
            "export with dtype fp32 or fp16"
        ) from None
    except (state.Fail, state.InvalidGraph, state.InvalidProtobuf, state.NoSuchFile) as error:
        missing = path.with_name(path.name + ".data")
        hint = "" if missing.exists() else f" (is {missing.name} missing beside it?)"
        raise CheckpointError(f"{path}: ONNX Runtime cannot read it: {error}{hint}") from None
    except state.RuntimeException as error:
        raise CheckpointError(f"{path}: ONNX Runtime cannot prepare it: {error}") from None


def import_onnxruntime() -> Any:
    """The onnxruntime module. Raises: DependencyError."""
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise DependencyError(
            f"running an ONNX export needs ONNX Runtime ({error}); pip install 'clipfast[export]'"
        ) from None


def _input_dtype(metadata: TowerMetadata) -> torch.dtype:
    if metadata.tower == "text":
        return torch.int32
    return torch.uint8 if metadata.pixels == "uint8" else torch.float32
