"""TensorRT plans without TensorRT: the version in a plan's header, and the JSON that stands beside it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clipfast.errors import CheckpointError
from clipfast.runtimes.metadata import TowerMetadata, own_properties

_MAGIC = {b"ftrt": "TensorRT", b"vtrt": "TensorRT-RTX"}
_VERSION = slice(24, 28)  # major, minor, patch, build: one byte each

Profile = tuple[int, int, int]


@dataclass(frozen=True)
class PlanHeader:
    """What built a plan: "TensorRT" or "TensorRT-RTX", and its version (major, minor, patch, build)."""

    compiler: str
    version: tuple[int, int, int, int]

    @property
    def version_text(self) -> str:
        return ".".join(map(str, self.version))


def read_plan_header(path: Path) -> PlanHeader:
    """The header of a serialized engine.

    Raises:
        CheckpointError: the file is no TensorRT plan.
    """
    with path.open("rb") as file:
        head = file.read(_VERSION.stop)
    compiler = _MAGIC.get(head[:4])
    if compiler is None or len(head) < _VERSION.stop:
        raise CheckpointError(
            f"{path}: expected a TensorRT plan, which starts with 'ftrt' or 'vtrt', got {head[:4]!r}; "
            "make it with `clipfast build-engine`"
        )
    major, minor, patch, build = head[_VERSION]
    return PlanHeader(compiler, (major, minor, patch, build))


@dataclass(frozen=True)
class EngineSidecar:
    """What a plan cannot say itself, stored as `<plan>.json`.

    properties: the exported tower's metadata. profiles: batch ranges (smallest, usual, largest).
    device, compute_capability: of the GPU it was built for, or None when built without one.
    onnx_sha256: of the graph file; onnx_file: its name beside the plan, where stripped weights are read again.
    parity: the verification's result, or None when it was not asked for.
    """

    properties: dict[str, str]
    tensorrt_version: str
    plan_sha256: str
    plan_bytes: int
    onnx_file: str
    onnx_sha256: str
    profiles: tuple[Profile, ...]
    settings: dict[str, Any]
    device: str | None
    compute_capability: tuple[int, int] | None
    cuda_version: str | None
    platform: str
    parity: dict[str, Any] | None = None

    def metadata(self, path: Path) -> TowerMetadata:
        return TowerMetadata.from_properties(self.properties, sidecar_path(path))

    def write(self, plan: Path) -> None:
        text = json.dumps(asdict(self), indent=2, sort_keys=True)
        sidecar_path(plan).write_text(text + "\n")


def sidecar_path(plan: Path) -> Path:
    return plan.with_name(plan.name + ".json")


def read_sidecar(plan: Path) -> EngineSidecar:
    """The JSON beside a plan.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    path = sidecar_path(plan)
    if not path.exists():
        raise CheckpointError(
            f"{plan}: {path.name} is missing beside it, and a plan does not say which model it is; "
            "build it with `clipfast build-engine`"
        )
    try:
        data = json.loads(path.read_text())
        capability = data["compute_capability"]
        data["compute_capability"] = None if capability is None else tuple(capability)
        data["profiles"] = tuple(tuple(profile) for profile in data["profiles"])
        return EngineSidecar(**data)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); build the engine again") from None


def describe_plan(path: Path) -> dict[str, Any]:
    """A JSON-ready description of a plan: its header, and its sidecar where it has one.

    Raises:
        CheckpointError: it is no plan.
    """
    header = read_plan_header(path)
    sidecar = asdict(read_sidecar(path)) if sidecar_path(path).exists() else {}
    properties = sidecar.pop("properties", {})
    return {
        "file": str(path),
        "kind": "engine",
        "bytes": path.stat().st_size,
        "compiler": header.compiler,
        "compiler_version": header.version_text,
        "build": sidecar,
        "clipfast": own_properties(properties),
    }
