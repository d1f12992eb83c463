"""Backends: implementations of the operations, and the one place where one of them is chosen.

    ops = select_ops("auto", device=torch.device("cuda"), dtype=torch.bfloat16)

"auto" walks the visible order of the device and takes the first backend that can serve; a named backend that cannot
serve raises UnsupportedError with its reason and is never replaced silently.
"""

from __future__ import annotations

import importlib
import logging
from importlib.util import find_spec
from types import ModuleType

import torch

from clipfast.errors import ConfigurationError, UnsupportedError
from clipfast.ops import Ops

logger = logging.getLogger("clipfast")

AUTO_ORDER: dict[str, tuple[str, ...]] = {
    "cuda": ("cuda", "triton", "reference"),
    "cpu": ("cpu", "reference"),
}
BACKENDS = ("reference", "cpu", "triton", "cuda")


def select_ops(backend: str, *, device: torch.device | str, dtype: torch.dtype) -> Ops:
    """The operations of one backend.

    Args:
        backend: "auto" or one of BACKENDS.
        device: where the tensors will live.
        dtype: of the matrices.
    Raises:
        ConfigurationError: the name is unknown.
        UnsupportedError: a named backend cannot serve this device and dtype; the message is its reason.
    """
    device = torch.device(device)
    if backend == "auto":
        return _first_that_serves(device, dtype)
    if backend not in BACKENDS:
        raise ConfigurationError(
            f"backend={backend!r} is unknown; choose one of auto, {', '.join(BACKENDS)}"
        )
    reason = unsupported_reason(backend, device=device, dtype=dtype)
    if reason is not None:
        raise UnsupportedError(f"backend {backend!r} cannot serve {dtype} on {device}: {reason}")
    return _make(backend)


def unsupported_reason(backend: str, *, device: torch.device, dtype: torch.dtype) -> str | None:
    """None when the backend can serve tensors of this device and dtype, else the sentence why not."""
    if backend == "reference":
        return None
    if find_spec(f"clipfast.backends.{backend}") is None:
        return "this version does not hold it"
    reason: str | None = _room(backend).unsupported_reason(device, dtype)
    return reason


def _first_that_serves(device: torch.device, dtype: torch.dtype) -> Ops:
    for backend in AUTO_ORDER.get(device.type, ("reference",)):
        reason = unsupported_reason(backend, device=device, dtype=dtype)
        if reason is None:
            ops = _make(backend)
            for operation, source in ops.describe().items():
                logger.info("%s: %s", operation, source)
            return ops
        logger.info("backend %s not used: %s", backend, reason)
    raise AssertionError("the reference backend serves every device")


def _make(backend: str) -> Ops:
    if backend == "reference":
        from clipfast.backends.reference import REFERENCE

        return REFERENCE
    ops: Ops = _room(backend).make_ops()
    return ops


def _room(backend: str) -> ModuleType:
    """The backend's module: `unsupported_reason(device, dtype) -> str | None` and `make_ops() -> Ops`."""
    return importlib.import_module(f"clipfast.backends.{backend}")
