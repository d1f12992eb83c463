"""Repositories for Triton Inference Server, read with the server's own schema (from its client's wheel)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from google.protobuf import text_format

from clipfast.errors import CheckpointError, ConfigurationError, UnsupportedError
from clipfast.export import onnx_file
from clipfast.export.triton_repository import write_triton_repository
from clipfast.runtimes.plan import EngineSidecar, read_sidecar
from tests.export.graphs import describe, random_parameters, write_tower
from tests.export.nvidia_wheels import WheelError, unpacked
from tests.runtimes.plans import write_engine
from tests.weights import tiny


@pytest.fixture(scope="module")
def schema() -> Any:
    """Triton's model_config_pb2."""
    try:
        wheel = unpacked("tritonclient==2.73.0", download=True)
    except WheelError as error:
        pytest.skip(str(error))
    path = wheel / "tritonclient" / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """image.onnx with its weights inside, text.onnx with a data file."""
    folder = tmp_path / "export"
    folder.mkdir()
    parameters = random_parameters(tiny())
    write_tower(folder, tiny(), parameters, "image")
    monkeypatch.setattr(onnx_file, "EXTERNAL_DATA_BYTES", 0)
    write_tower(folder, tiny(), parameters, "text")
    return folder


def test_the_server_can_read_it(export: Path, tmp_path: Path, schema: Any) -> None:
    repository = tmp_path / "repository"
    models = write_triton_repository(export, repository, queue_delay_us=500)
    assert [model.name for model in models] == ["clip_image", "clip_text"]
    image, text = (
        text_format.Parse((model / "config.pbtxt").read_text(), schema.ModelConfig())
        for model in models
    )
    assert (image.name, image.backend, image.max_batch_size) == ("clip_image", "onnxruntime", 32)
    assert (image.input[0].name, list(image.input[0].dims)) == ("pixel_values", [3, 64, 64])
    assert image.input[0].data_type == schema.TYPE_UINT8
    assert (text.input[0].data_type, list(text.input[0].dims)) == (schema.TYPE_INT32, [77])
    assert (text.output[0].name, list(text.output[0].dims)) == ("text_embeds", [32])
    assert list(text.dynamic_batching.preferred_batch_size) == [8, 32]
    assert text.dynamic_batching.max_queue_delay_microseconds == 500
    assert text.parameters["clipfast.tower"].string_value == "text"
    assert text.model_warmup[0].inputs["input_ids"].zero_data
    assert '"embed_dim":32' in image.parameters["clipfast.config"].string_value


def test_served_files_run_where_they_stand(export: Path, tmp_path: Path) -> None:
    models = write_triton_repository(export, tmp_path / "repository", name="demo")
    for model in models:
        onnxruntime.InferenceSession(str(model / "1" / "model.onnx"))
    assert (models[1] / "1" / "text.onnx.data").stat().st_size > 1_000_000


def test_engines_are_preferred_and_state_their_profiles(
    export: Path, tmp_path: Path, schema: Any
) -> None:
    write_engine(export / "image.engine", describe(tiny(), "image", "fp16", "tensorrt"))
    image, text = write_triton_repository(export, tmp_path / "repository")
    config = text_format.Parse((image / "config.pbtxt").read_text(), schema.ModelConfig())
    assert (config.backend, config.max_batch_size) == ("tensorrt", 128)
    assert list(config.instance_group[0].profile) == ["0", "1"]
    assert list(config.dynamic_batching.preferred_batch_size) == [8, 64, 128]
    assert (image / "1" / "model.plan").read_bytes() == (export / "image.engine").read_bytes()
    assert (text / "1" / "model.onnx").exists()


def test_what_triton_could_not_serve_is_refused(export: Path, tmp_path: Path) -> None:
    described = describe(tiny(), "image", "fp16", "tensorrt")
    engine = export / "image.engine"
    write_engine(engine, described, settings={"strip_weights": True})
    with pytest.raises(UnsupportedError, match="holds no weights"):
        write_triton_repository(export, tmp_path / "repository")
    write_engine(engine, described, profiles=((4, 8, 16),))
    with pytest.raises(UnsupportedError, match="start above batch 1"):
        write_triton_repository(export, tmp_path / "repository")
    assert isinstance(read_sidecar(engine), EngineSidecar)
    with pytest.raises(CheckpointError, match="holds no tower"):
        write_triton_repository(tmp_path, tmp_path / "repository")


def test_models_are_not_overwritten_unless_forced(export: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    write_triton_repository(export, repository)
    with pytest.raises(ConfigurationError, match="pass force"):
        write_triton_repository(export, repository)
    (export / "text.onnx").unlink()
    write_triton_repository(export, repository, force=True, queue_delay_us=7)
    assert "microseconds: 7" in (repository / "clip_image" / "config.pbtxt").read_text()
    assert not [path for path in repository.iterdir() if path.name.startswith(".")]
