"""A built engine against the ONNX graph it was built from, which ONNX Runtime computes on the CPU."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from clipfast.export.parity import GATES, Parity, batches_to_check, measure
from clipfast.export.samples import packaged_samples, read_samples
from clipfast.export.widen import write_float32_twin
from clipfast.runtimes.engine_tower import EngineTower
from clipfast.runtimes.onnxruntime import OnnxTower


def compare_engine(
    engine: Path, onnx_file: Path, device: int, calibration: str | Path | None = None
) -> Parity:
    """The engine's rows against the graph's, at every batch of the engine's profiles.

    Raises: as `EngineTower` and `OnnxTower`.
    """
    samples = packaged_samples() if calibration is None else read_samples(Path(calibration))
    samples = samples.every_other(1)
    tower = EngineTower(engine, torch.device("cuda", device))
    described = tower.metadata
    rows = samples.rows(described.tower, described.config, described.pixels)
    expected = _graph_rows(onnx_file, rows, widened=described.dtype == "bf16")
    batches = sorted({size for p in tower.profiles for size in batches_to_check(p)})
    results, neighbours, centred = measure(tower, rows, expected, batches)
    return Parity(
        tower=described.tower,
        dtype=described.dtype,
        gate=GATES[described.dtype],
        compared="the engine against its graph in ONNX Runtime",
        samples=samples.origin,
        count=len(rows),
        batches=results,
        neighbours=neighbours,
        centred=centred,
    )


def _graph_rows(onnx_file: Path, rows: torch.Tensor, *, widened: bool) -> torch.Tensor:
    cpu = torch.device("cpu")
    if not widened:
        return OnnxTower(onnx_file, cpu)(rows)
    with tempfile.TemporaryDirectory() as folder:
        return OnnxTower(write_float32_twin(onnx_file, Path(folder) / "twin.onnx"), cpu)(rows)
