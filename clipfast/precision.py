"""Which numbers a model computes in: names, dtypes, and what "auto" means on each kind of hardware (never a timing)."""

from __future__ import annotations

import torch

from clipfast.errors import ConfigurationError, UnsupportedError

DTYPES: dict[str, torch.dtype] = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
QUANTISED = ("int8", "fp8")
PRECISIONS = ("auto", *DTYPES, *QUANTISED)


def resolve_precision(precision: str, device: torch.device) -> str:
    """A name of DTYPES, "int8", or "fp8" on CUDA devices, whose kernels still may refuse the device.

    Raises:
        ConfigurationError: the name is unknown.
        UnsupportedError: no kernels exist for it on this device.
    """
    if precision not in PRECISIONS:
        raise ConfigurationError(
            f"precision={precision!r}: expected one of {', '.join(PRECISIONS)}"
        )
    if (precision, device.type) in (("int8", "cpu"), ("int8", "cuda"), ("fp8", "cuda")):
        return precision
    if precision in QUANTISED:
        raise UnsupportedError(
            f"precision {precision!r} has no kernels on {device} in this version; use fp32, bf16, fp16 or auto"
        )
    return _auto(device) if precision == "auto" else precision


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Of a resolved precision's matrices; of "int8" and "fp8", of what is not quantised."""
    return DTYPES[_auto(device) if precision in QUANTISED else precision]


def _auto(device: torch.device) -> str:
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    native_bf16 = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return "bf16" if native_bf16 else "fp32"


def resolve_device(device: str | torch.device) -> torch.device:
    """The device that "auto" or a name stands for.

    Raises:
        ConfigurationError: the name is no device.
        UnsupportedError: a CUDA device was asked for and there is none.
    """
    if device == "auto":
        return _numbered(torch.device("cuda")) if torch.cuda.is_available() else torch.device("cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigurationError(
            f"device={device!r}: expected auto, cpu, cuda, cuda:N or cuda:all ({error})"
        ) from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UnsupportedError(
            f'device {device!r} was asked for and no CUDA device is usable; use device="cpu" or "auto"'
        )
    return _numbered(chosen)


def _numbered(device: torch.device) -> torch.device:
    """Another thread's current GPU may be another one."""
    if device.type != "cuda":
        return device
    index = torch.cuda.current_device() if device.index is None else device.index
    return torch.device("cuda", index)
