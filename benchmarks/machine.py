"""The machine and the software that a result belongs to, without anything that tells whose machine it is."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "numpy",
    "transformers",
    "open_clip_torch",
    "openvino",
    "nncf",
    "onnxruntime",
    "torchao",
    "faiss-cpu",
    "pytest-benchmark",
)
_FLAGS = ("avx2", "avx512", "avx_vnni", "amx", "fma", "f16c", "asimd", "sve", "bf16")


def machine_info() -> dict[str, Any]:
    """CPU, cores, GPU, driver, operating system and package versions."""
    processor = _processor()
    flags = processor.get("flags", processor.get("Features", "")).split()
    return {
        "name": machine_name(),
        "cpu": processor.get("model name", platform.machine()),
        "cpu_family": processor.get("cpu family", ""),
        "cpu_model": processor.get("model", ""),
        "cpu_flags": [flag for flag in flags if any(known in flag for known in _FLAGS)],
        "processors": os.cpu_count(),
        "affinity": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "gpu": _gpu(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


@cache
def machine_name() -> str:
    """A file name made of the CPU's model, its number of cores and the GPU: "amd-epyc-25-17-2-cores"."""
    processor = _processor()
    words = [
        processor.get("model name", platform.machine()),
        processor.get("cpu family", ""),
        processor.get("model", ""),
        f"{len(os.sched_getaffinity(0))} cores",
        _gpu().get("name", ""),
    ]
    plain = re.sub(r"\((r|tm|c)\)|@.*|\bcpu\b|processor", " ", " ".join(words).lower())
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def commit_info() -> dict[str, Any]:
    """The commit that was measured, and whether files differed from it."""
    folder = Path(__file__).parent
    commit = _output("git", "-C", str(folder), "rev-parse", "HEAD")
    changed = _output("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return {"id": commit or "unknown", "dirty": bool(changed)}


@cache
def _processor() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo."""
    first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


@cache
def _gpu() -> dict[str, str]:
    answer = _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    if not answer:
        return {}
    name, driver = answer.splitlines()[0].split(", ")
    return {"name": name, "driver": driver}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _output(*command: str) -> str:
    """What a program prints; nothing when it is not there or fails."""
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        return ""
    return finished.stdout.strip() if finished.returncode == 0 else ""
