"""Files that look like TensorRT plans from outside: a header that TensorRT would write, and our sidecar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipfast.runtimes.metadata import TowerMetadata
from clipfast.runtimes.plan import EngineSidecar, Profile

SETTINGS: dict[str, Any] = {
    "profiles": [],
    "workspace": None,
    "optimization_level": 3,
    "hardware_compatibility": "none",
    "version_compatible": False,
    "strip_weights": False,
}


def write_plan(
    path: Path, version: tuple[int, int, int, int] = (11, 4, 0, 106), magic: bytes = b"ftrt"
) -> Path:
    path.write_bytes(magic + bytes(20) + bytes(version) + b"the engine")
    return path


def write_engine(
    path: Path,
    described: TowerMetadata,
    *,
    profiles: tuple[Profile, ...] = ((1, 8, 64), (1, 64, 128)),
    settings: dict[str, Any] | None = None,
    compute_capability: tuple[int, int] | None = (8, 9),
) -> EngineSidecar:
    write_plan(path)
    sidecar = EngineSidecar(
        properties=described.to_properties(),
        tensorrt_version="11.4.0.106",
        plan_sha256="0" * 64,
        plan_bytes=path.stat().st_size,
        onnx_file=path.with_suffix(".onnx").name,
        onnx_sha256="0" * 64,
        profiles=profiles,
        settings=SETTINGS | (settings or {}),
        device="a GPU",
        compute_capability=compute_capability,
        cuda_version="13.0",
        platform="Linux x86_64",
    )
    sidecar.write(path)
    return sidecar
