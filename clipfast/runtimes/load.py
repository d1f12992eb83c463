"""From a path to the encoder of what was exported there.

A directory of `clipfast export` holds image.onnx and text.onnx; `clipfast build-engine` puts image.engine and
text.engine beside them. "tensorrt" takes the engines, "onnxruntime" the graphs, "auto" the engines on a CUDA device
when there are any, else the graphs.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from clipfast.errors import CheckpointError, ConfigurationError
from clipfast.runtimes.encoder import RuntimeEncoder, Tower
from clipfast.runtimes.engine_tower import EngineTower
from clipfast.runtimes.metadata import TOWERS, TowerName
from clipfast.runtimes.onnxruntime import OnnxTower

logger = logging.getLogger("clipfast")

SUFFIXES = {"onnxruntime": ".onnx", "tensorrt": ".engine"}
RUNTIMES = tuple(SUFFIXES)


def is_export(source: str | Path) -> bool:
    """Whether a path is an exported file, or a directory that holds one."""
    path = Path(source)
    if path.is_dir():
        return any(_files(path, runtime) for runtime in RUNTIMES)
    return path.suffix in SUFFIXES.values() and path.is_file()


def load_runtime(
    source: str | Path,
    *,
    runtime: str = "auto",
    device: torch.device,
    threads: int | None = None,
) -> tuple[RuntimeEncoder, str]:
    """The encoder of an export, and the name of the runtime beneath it.

    Args:
        source: a directory of exports, one .onnx or one .engine file (which brings the other tower beside it along).
        runtime: "auto", "onnxruntime" or "tensorrt".
        threads: of ONNX Runtime's CPU pool.
    Raises:
        ConfigurationError: the runtime's name is unknown, or contradicts the file.
        CheckpointError, DependencyError, UnsupportedError: as the runtimes' towers.
    """
    path = Path(source)
    if runtime not in ("auto", *RUNTIMES):
        raise ConfigurationError(
            f"backend={runtime!r}: an exported model runs on one of auto, {', '.join(RUNTIMES)}"
        )
    chosen = _choose(path, runtime, device)
    files = _files(path if path.is_dir() else path.parent, chosen)
    if path.is_file() and path not in files:
        files = [path]
    if not files:
        suffix = SUFFIXES[chosen]
        raise CheckpointError(f"{path}: holds neither image{suffix} nor text{suffix}")
    towers: dict[TowerName, Tower] = {}
    for file in files:
        tower: Tower = (
            OnnxTower(file, device, threads)
            if chosen == "onnxruntime"
            else EngineTower(file, device)
        )
        towers[tower.metadata.tower] = tower
    logger.info("%s: %s on %s", path, chosen, device)
    return RuntimeEncoder(towers, device, str(path)), chosen


def _choose(path: Path, runtime: str, device: torch.device) -> str:
    if path.is_file():
        own = next(name for name, suffix in SUFFIXES.items() if suffix == path.suffix)
        if runtime not in ("auto", own):
            raise ConfigurationError(f"{path}: is for {own}, not for backend={runtime!r}")
        return own
    if runtime != "auto":
        return runtime
    has_engines = bool(_files(path, "tensorrt"))
    has_graphs = bool(_files(path, "onnxruntime"))
    return (
        "tensorrt" if has_engines and (device.type == "cuda" or not has_graphs) else "onnxruntime"
    )


def _files(directory: Path, runtime: str) -> list[Path]:
    candidates = (directory / f"{tower}{SUFFIXES[runtime]}" for tower in TOWERS)
    return [file for file in candidates if file.is_file()]
