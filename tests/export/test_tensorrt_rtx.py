"""NVIDIA's own parser and compiler on our graphs, without a GPU: TensorRT-RTX under TensorRT 11.4's bindings.

Nothing is executed: it shows that the graphs parse, are typed consistently and compile, and that attention becomes
one fused kernel, whose name stands in the plan once for each of three GPU generations.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clipfast.config import ARCHITECTURES, ModelConfig, ResNetConfig
from clipfast.export.onnx import export_onnx
from clipfast.runtimes.metadata import ExportDtype
from clipfast.runtimes.plan import read_plan_header
from tests.export.graphs import random_checkpoint, random_parameters, write_tower
from tests.export.nvidia_wheels import WheelError, rtx_environment
from tests.weights import reduced, tiny, tiny_resnet

pytestmark = pytest.mark.slow
GENERATIONS = 3


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    try:
        return rtx_environment(tmp_path_factory.mktemp("rtx"), download=False)
    except WheelError as error:
        pytest.skip(str(error))


def run(environment: dict[str, str], *paths: Path, **options: Any) -> list[dict[str, Any]]:
    """What `build_engine` said of each graph."""
    program = Path(__file__).with_name("build_on_rtx.py")
    ran = subprocess.run(
        [sys.executable, str(program), json.dumps(options), *map(str, paths)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    results: list[dict[str, Any]] = json.loads(ran.stdout.splitlines()[-1])
    return results


def build(
    label: str, environment: dict[str, str], *paths: Path, **options: Any
) -> list[dict[str, Any]]:
    """As `run`, where nothing may go wrong."""
    results = run(environment, *paths, **options)
    for path, result in zip(paths, results, strict=True):
        shown = {key: value for key, value in result.items() if key != "sidecar"}
        print(label, path.name, shown)
        assert "error" not in result, result["error"]
        assert result["logged_errors"] == []
    return results


def check_towers(
    name: str, layers: int | None, dtype: ExportDtype, environment: dict[str, str], folder: Path
) -> None:
    config = ARCHITECTURES[name] if layers is None else reduced(ARCHITECTURES[name], layers)
    parameters = random_parameters(config)
    paths = [
        write_tower(folder, config, parameters, tower, dtype, "tensorrt")
        for tower in ("image", "text")
    ]
    image, text = build(f"{config.name} {dtype}", environment, *paths)
    is_resnet = isinstance(config.vision, ResNetConfig)
    vision_layers = 0 if isinstance(config.vision, ResNetConfig) else config.vision.layers
    if not is_resnet:
        assert image["fused_attention"] == GENERATIONS * vision_layers
    assert text["fused_attention"] == GENERATIONS * config.text.layers
    header = read_plan_header(folder / "image.engine")
    assert header.compiler == "TensorRT-RTX"
    assert image["sidecar"]["properties"]["clipfast.dtype"] == dtype
    assert image["sidecar"]["plan_bytes"] == (folder / "image.engine").stat().st_size


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_every_family_builds_with_fused_attention(
    name: str, dtype: ExportDtype, environment: dict[str, str], tmp_path: Path
) -> None:
    check_towers(name, 2, dtype, environment, tmp_path)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_full_size_vit_b_32(
    dtype: ExportDtype, environment: dict[str, str], tmp_path: Path
) -> None:
    check_towers("ViT-B-32", None, dtype, environment, tmp_path)


def test_a_graph_for_onnx_runtime_builds_too(environment: dict[str, str], tmp_path: Path) -> None:
    config = reduced(ARCHITECTURES["ViT-B-32"], 2)
    path = write_tower(tmp_path, config, random_parameters(config), "image", "fp32", "onnxruntime")
    build("for ONNX Runtime, fp32", environment, path)


@pytest.mark.parametrize("config", [tiny(), tiny_resnet()], ids=["vit", "resnet"])
def test_int8_builds(config: ModelConfig, environment: dict[str, str], tmp_path: Path) -> None:
    export_onnx(random_checkpoint(config), tmp_path, dtype="int8", target="tensorrt")
    build(f"{config.name} int8", environment, tmp_path / "image.onnx", tmp_path / "text.onnx")


def test_a_broken_graph_is_refused_with_nvidias_words(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """A graph whose weights are not where it says: our checks read no weights, NVIDIA's parser does."""
    import onnx

    config = reduced(ARCHITECTURES["ViT-B-32"], 2)
    path = write_tower(tmp_path, config, random_parameters(config), "text", "fp32", "tensorrt")
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.external_data[0].value = "missing.data"
    path.write_bytes(model.SerializeToString())
    (result,) = run(environment, path)
    assert result["error"].startswith("BuildError")
    assert "missing.data" in result["error"] or "token_embedding" in result["error"]
    assert not path.with_suffix(".engine").exists()


def test_settings_reach_the_builder(environment: dict[str, str], tmp_path: Path) -> None:
    config = reduced(ARCHITECTURES["ViT-B-32"], 1)
    path = write_tower(tmp_path, config, random_parameters(config), "text", "fp16", "tensorrt")
    settings = {
        "profiles": [[1, 4, 8], [8, 16, 32]],
        "workspace": 1 << 30,
        "optimization_level": 2,
    }
    cache = tmp_path / "made" / "timing.cache"  # reading one again asks CUDA for its device
    (result,) = build("settings", environment, path, settings=settings, timing_cache=str(cache))
    assert cache.stat().st_size > 0
    assert result["sidecar"]["profiles"] == settings["profiles"]
    assert result["sidecar"]["settings"]["optimization_level"] == 2


def test_why_nothing_was_built_is_said_in_nvidias_words(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Stripping weights asks CUDA for a device, which is not here: only the logger knows."""
    config = reduced(ARCHITECTURES["ViT-B-32"], 1)
    path = write_tower(tmp_path, config, random_parameters(config), "text", "fp16", "tensorrt")
    (result,) = run(environment, path, settings={"strip_weights": True})
    assert result["error"].startswith("BuildError: text.onnx: TensorRT built no engine: ")
    assert "Error Code" in result["error"]
    assert not path.with_suffix(".engine").exists()
