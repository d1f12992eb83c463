"""clipfast doctor: what is installed, what the machine has, and why a backend or a precision cannot serve here."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from clipfast import environment
from clipfast.cli.outcome import Exit
from clipfast.cli.output import print_json

PACKAGES = (
    "clipfast",
    "torch",
    "numpy",
    "pillow",
    "simplejpeg",
    "safetensors",
    "huggingface-hub",
    "triton",
    "onnx",
    "onnxruntime",
    "tensorrt-cu13",
    "pyarrow",
    "ray",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(options: argparse.Namespace) -> int:
    """Print everything; nothing is changed."""
    findings = diagnose()
    if options.json:
        print_json(findings)
    else:
        for section, content in findings.items():
            print(section)
            _print_section(content)
    return Exit.OK


def diagnose() -> dict[str, Any]:
    """Section -> name -> finding, JSON-ready."""
    return {
        "versions": {"python": platform.python_version()}
        | {name: _version(name) for name in PACKAGES},
        "cpu": _cpu(),
        "gpu": _gpus(),
        "backends": _backends(),
        "precisions": _precisions(),
        "environment": environment.variables(),
        "caches": _caches(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu() -> dict[str, Any]:
    import torch

    from clipfast.inputs.pipeline import cgroup_quota

    quota = cgroup_quota()
    return {
        "model": cpu_model(),
        "usable processors": len(os.sched_getaffinity(0)),
        "cgroup quota": "none" if quota is None else f"{quota:g} processors",
        "torch threads": torch.get_num_threads(),
        "features": _features(),
    }


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _features() -> str:
    from importlib.util import find_spec

    if find_spec("clipfast._native") is None:
        return "unknown: installed without the native module (no C++ compiler was found)"
    from clipfast import _native

    return " ".join(name for name, there in _native.cpu_features().items() if there) or "none"


def _gpus() -> dict[str, Any]:
    import torch

    if not torch.cuda.is_available():
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        return {"none": f"torch sees no GPU (torch is built {built})"}
    gpus = {}
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        memory = gpu.total_memory / 2**30
        gpus[f"cuda:{index}"] = f"{gpu.name}, sm_{gpu.major}{gpu.minor}, {memory:.0f} GiB"
    return gpus


def _backends() -> dict[str, Any]:
    """Backend and device -> "serves fp32, bf16", and the reasons why not the rest."""
    import torch

    from clipfast.backends import BACKENDS, unsupported_reason

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    precisions = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    findings = {}
    for backend in BACKENDS:
        for device in devices:
            reasons = {
                name: unsupported_reason(backend, device=torch.device(device), dtype=dtype)
                for name, dtype in precisions.items()
            }
            findings[f"{backend} on {device}"] = _served(reasons)
    return findings


def _precisions() -> dict[str, str]:
    """Device -> what `load` takes there as precision, and the reasons why not the rest."""
    import torch

    from clipfast.loading import unsupported_precision
    from clipfast.precision import QUANTISED

    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    return {
        device: _served(
            {
                precision: unsupported_precision(precision, torch.device(device))
                for precision in ("fp32", "bf16", "fp16", *QUANTISED)
            }
        )
        for device in devices
    }


def _served(reasons: Mapping[str, str | None]) -> str:
    """Precision -> None, or why not, as a line."""
    serves = [name for name, reason in reasons.items() if reason is None]
    refusals = {reason: None for reason in reasons.values() if reason is not None}
    return "; ".join(([f"serves {', '.join(serves)}"] if serves else []) + list(refusals))


def _caches() -> dict[str, str]:
    from huggingface_hub import constants

    paths = {
        "hugging face hub": Path(constants.HF_HUB_CACHE),
        "openai clip": Path("~/.cache/clip").expanduser(),
    }
    return {
        name: f"{path} ({'exists' if path.is_dir() else 'not there yet'})"
        for name, path in paths.items()
    }


def _print_section(content: Mapping[str, Any]) -> None:
    width = max(map(len, content), default=0)
    for name, finding in content.items():
        print(f"  {name.ljust(width)}  {finding}")
