"""The commands export, inspect, triton-repository and build-engine: what they print and how they exit."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from clipfast.cli import main
from clipfast.cli.build_engine import byte_count, profiles
from clipfast.export import text as text_author
from tests.runtimes.plans import write_plan
from tests.weights import random_weights, save_as, tiny


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("weights")
    return str(save_as("openai_jit", random_weights(tiny()), tiny(), folder))


@pytest.fixture(scope="module")
def exported(weights: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "out"
    assert main(["export", weights, "-o", str(folder), "--batch", "1:2:4"]) == 0
    return folder


def test_export_prints_its_report(weights: str, tmp_path: Path, capsys) -> None:
    arguments = ["--dtype", "fp16", "--tower", "image", "--batch", "3", "--no-layernorm-fp32"]
    assert main(["export", weights, "-o", str(tmp_path), *arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["options"]["batch"] == [3, 3, 3]
    assert report["options"]["layer_norm_fp32"] is False
    (tower,) = report["towers"]
    assert tower["files"] == ["image.onnx"]
    assert tower["parity"]["cosine_min"] > 0.999
    assert main(["export", weights, "-o", str(tmp_path), *arguments]) == 2  # it is there already
    assert "pass force (--force)" in capsys.readouterr().err
    assert main(["export", weights, "-o", str(tmp_path), *arguments, "--force"]) == 0
    assert "image.onnx" in capsys.readouterr().out


def test_parity_failure_has_its_own_exit_code(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(text_author, "HIDDEN", 0.0)
    assert main(["export", weights, "-o", str(tmp_path / "out")]) == 7
    assert "nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_unsupported_operator_has_its_own_exit_code(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr("clipfast.export.onnx_file.opset_for", lambda dtype: 20)
    assert main(["export", weights, "-o", str(tmp_path / "out"), "--dtype", "bf16"]) == 5
    assert "unsupported type: tensor(bfloat16)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("batch", ["4:2:1", "0", "a:b:c", "1:2"])
def test_bad_batches_are_usage_errors(batch: str, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["export", "demo", "-o", "out", "--batch", batch])
    assert stopped.value.code == 2
    assert "MIN:OPT:MAX" in capsys.readouterr().err


def test_inspect_an_export(exported: Path, capsys) -> None:
    assert main(["inspect", str(exported / "text.onnx"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["inputs"] == [{"name": "input_ids", "dtype": "int32", "shape": ["batch", 77]}]
    assert found["tensorrt"] == []
    assert found["operators"]["Softmax"] == 2
    assert found["clipfast"]["embed_dim"] == "32"
    assert main(["inspect", str(exported / "text.onnx")]) == 0
    assert "input_ids int32" in capsys.readouterr().out


def test_inspect_a_plan_and_what_is_neither(tmp_path: Path, capsys) -> None:
    plan = write_plan(tmp_path / "image.engine", (10, 3, 0, 26))
    assert main(["inspect", str(plan)]) == 0
    assert "10.3.0.26" in capsys.readouterr().out
    (tmp_path / "x.onnx").write_bytes(b"\xff\xff")
    assert main(["inspect", str(tmp_path / "x.onnx")]) == 1
    assert main(["inspect", str(tmp_path / "missing.engine")]) == 1
    assert "no such file" in capsys.readouterr().err


def test_triton_repository(exported: Path, tmp_path: Path, capsys) -> None:
    target = str(tmp_path / "repository")
    assert main(["triton-repository", str(exported), "-o", target, "--name", "b32"]) == 0
    assert (tmp_path / "repository" / "b32_text" / "1" / "model.onnx").is_file()
    assert "b32_image" in capsys.readouterr().out
    assert main(["triton-repository", str(tmp_path), "-o", target]) == 1


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_build_engine_without_tensorrt(exported: Path, tmp_path: Path, capsys) -> None:
    assert main(["build-engine", str(exported)]) == 4
    assert "pip install tensorrt-cu13" in capsys.readouterr().err
    assert main(["build-engine", str(tmp_path)]) == 2
    assert "make them with clipfast export" in capsys.readouterr().err
    (tmp_path / "text.onnx").write_bytes(b"\xff\xff")
    assert main(["build-engine", str(tmp_path)]) == 1
    assert "not an ONNX file" in capsys.readouterr().err


def test_sizes_and_profiles() -> None:
    assert byte_count("4GiB") == 4 << 30
    assert byte_count("1.5 mib") == 3 << 19
    assert byte_count("123") == 123
    assert profiles("1:8:32,32:128:256") == ((1, 8, 32), (32, 128, 256))
