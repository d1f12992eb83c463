"""Which software and which clocks a run's figures belong to."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import commit_info

# Triton, the peers, and what decodes.
PACKAGES = ("triton", "transformers", "timm", "open_clip_torch", "simplejpeg", "torchcodec")
_CLOCKS = (
    "clocks.sm", "clocks.mem", "clocks.max.sm", "power.draw", "power.limit", "temperature.gpu",
)  # fmt: skip
# A mask; the second is what older drivers call it.
_REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")


def commit() -> dict[str, Any]:
    """The commit that is measured: git's, else CLIPFAST_COMMIT where the files came without their history."""
    found = commit_info()
    told = os.environ.get("CLIPFAST_COMMIT")
    if found["id"] == "unknown" and told:
        return {"id": told, "dirty": "not known: the files came without their history"}
    return found


def clocks() -> dict[str, str]:
    """Clocks, power and what holds them down, as nvidia-smi says; why not where it does not."""
    values = _queried(_CLOCKS)
    if len(values) != len(_CLOCKS):
        return {"nvidia-smi": "not available here"}
    reasons = next((found for name in _REASONS if (found := _queried((name,)))), ["unknown"])
    return {**dict(zip(_CLOCKS, values, strict=True)), "held down by": reasons[0]}


def versions() -> dict[str, str]:
    """Of torch, of what runs beside it where that is installed under its own name, and of the CUDA libraries."""
    found = {"torch": torch.__version__}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    cudnn = torch.backends.cudnn.version()
    found["cuDNN"] = "not available here" if cudnn is None else str(cudnn)
    found["cuBLASLt"] = _cublas() or "not available here"
    nvcc = re.search(r"release ([\d.]+)", _said_by(["nvcc", "--version"]))
    found["nvcc"] = "not available here" if nvcc is None else nvcc[1]
    return found


def _queried(names: tuple[str, ...]) -> list[str]:
    """The fields' values, none where a field or the program is unknown."""
    query = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader", "--id=0"]
    said = _said_by(query)
    return [value.strip() for value in said.split(",")] if said else []


def _cublas() -> str | None:
    """The version of the library that torch has loaded, as it says itself."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.partition("/")[2]
        if "libcublasLt.so" in path:
            library = ctypes.CDLL(f"/{path}")
            library.cublasLtGetVersion.restype = ctypes.c_size_t
            return str(library.cublasLtGetVersion())
    return None


def _said_by(command: list[str]) -> str:
    """What a program prints; nothing when it is not there or fails."""
    with suppress(FileNotFoundError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""
    return ""
