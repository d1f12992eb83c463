"""Plans read without TensorRT: header, sidecar, and whether they fit what is installed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clipfast.errors import CheckpointError, DependencyError, UnsupportedError
from clipfast.runtimes.plan import (
    PlanHeader,
    describe_plan,
    read_plan_header,
    read_sidecar,
    sidecar_path,
)
from clipfast.runtimes.tensorrt import check_plan
from tests.export.graphs import describe
from tests.runtimes.plans import SETTINGS, write_engine, write_plan
from tests.weights import tiny

DESCRIBED = describe(tiny(), "image", "fp16", "tensorrt")
GPU = torch.device("cuda", 0)


def test_header(tmp_path: Path) -> None:
    plan = write_plan(tmp_path / "a.engine", (10, 9, 0, 34))
    assert read_plan_header(plan) == PlanHeader("TensorRT", (10, 9, 0, 34))
    rtx = write_plan(tmp_path / "b.engine", (1, 7, 1, 116), b"vtrt")
    assert read_plan_header(rtx).compiler == "TensorRT-RTX"
    assert read_plan_header(rtx).version_text == "1.7.1.116"


@pytest.mark.parametrize("content", [b"", b"ftrt", b"\x08\x0a" + bytes(40)])
def test_what_is_no_plan_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.engine").write_bytes(content)
    with pytest.raises(CheckpointError, match="expected a TensorRT plan"):
        read_plan_header(tmp_path / "x.engine")


def test_sidecar_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "image.engine"
    written = write_engine(path, DESCRIBED)
    assert read_sidecar(path) == written
    assert read_sidecar(path).metadata(path) == DESCRIBED
    assert describe_plan(path)["clipfast"]["embed_dim"] == "32"
    assert describe_plan(path)["build"]["profiles"] == ((1, 8, 64), (1, 64, 128))


def test_missing_and_damaged_sidecars(tmp_path: Path) -> None:
    path = write_plan(tmp_path / "image.engine")
    with pytest.raises(CheckpointError, match=r"image\.engine\.json is missing"):
        read_sidecar(path)
    assert describe_plan(path)["build"] == {}
    for text in ("{", "[]", json.dumps({"compute_capability": None, "profiles": []})):
        sidecar_path(path).write_text(text)
        with pytest.raises(CheckpointError, match="damaged"):
            read_sidecar(path)


def test_a_plan_of_another_version_names_both(tmp_path: Path) -> None:
    path = tmp_path / "image.engine"
    sidecar = write_engine(path, DESCRIBED, compute_capability=None)
    header = PlanHeader("TensorRT", (10, 9, 0, 34))
    with pytest.raises(
        DependencyError, match=r"built by TensorRT 10\.9\.0\.34, installed is 11\.4"
    ):
        check_plan(path, header, sidecar, "11.4.0.106", GPU)
    compatible = replace(sidecar, settings=SETTINGS | {"version_compatible": True})
    check_plan(path, header, compatible, "11.4.0.106", GPU)
    check_plan(path, header, sidecar, "10.9.1.1", GPU)
    with pytest.raises(DependencyError, match="never in earlier ones"):
        check_plan(path, header, compatible, "10.8.0.43", GPU)


def test_a_plan_of_another_gpu_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    path = tmp_path / "image.engine"
    sidecar = write_engine(path, DESCRIBED)
    header = PlanHeader("TensorRT", (11, 4, 0, 106))
    with pytest.raises(DependencyError, match=r"capability 8\.9 \(a GPU\), this GPU has 9\.0"):
        check_plan(path, header, sidecar, "11.4.0.106", GPU)
    portable = replace(sidecar, settings=SETTINGS | {"hardware_compatibility": "ampere+"})
    check_plan(path, header, portable, "11.4.0.106", GPU)


def test_a_plan_of_tensorrt_rtx_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.engine"
    sidecar = write_engine(path, DESCRIBED)
    with pytest.raises(UnsupportedError, match=r"built by TensorRT-RTX 1\.7"):
        check_plan(path, PlanHeader("TensorRT-RTX", (1, 7, 1, 116)), sidecar, "11.4.0.106", GPU)
