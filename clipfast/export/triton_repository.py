"""A model repository for NVIDIA's Triton Inference Server: one model a tower, batched by the server.

    REPO/clip_image/config.pbtxt   REPO/clip_image/1/model.onnx | model.plan   (and its data file)
    REPO/clip_text/config.pbtxt    REPO/clip_text/1/...

Source of the schema: Triton's model_config.proto. Clients send uint8 (N, 3, R, R) pixels and int32 (N, context_length)
tokens, which `clipfast.load(...)`'s preprocess and tokenize make, and receive unit rows.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clipfast.errors import CheckpointError, ConfigurationError, UnsupportedError
from clipfast.export.onnx_file import read_graph
from clipfast.runtimes.metadata import TOWERS, TowerMetadata
from clipfast.runtimes.plan import Profile, read_sidecar

Runtime = Literal["auto", "onnxruntime", "tensorrt"]
_TYPES = {"uint8": "TYPE_UINT8", "float": "TYPE_FP32"}


@dataclass(frozen=True)
class _Model:
    """One tower to serve. files: source -> name in the version folder. profiles: empty for ONNX."""

    metadata: TowerMetadata
    backend: str
    files: dict[Path, str]
    profiles: tuple[Profile, ...] = ()

    @property
    def largest(self) -> int:
        return max((profile[2] for profile in self.profiles), default=self.metadata.batch[2])

    @property
    def usual(self) -> list[int]:
        sizes = {profile[1] for profile in self.profiles} or {self.metadata.batch[1]}
        return sorted(sizes | {self.largest})


def write_triton_repository(
    directory: str | Path,
    repository: str | Path,
    *,
    name: str = "clip",
    runtime: Runtime = "auto",
    queue_delay_us: int = 1000,
    force: bool = False,
) -> list[Path]:
    """Copies the towers of an export into a repository.

    Args:
        directory: written by `export_onnx`, with or without engines.
        name: the models are called `<name>_image` and `<name>_text`.
        runtime: "auto" takes a tower's engine where there is one, else its ONNX file.
        queue_delay_us: microseconds that a request may wait for others to share its batch.
        force: replace models of these names.
    Returns: the models' folders.
    Raises:
        ConfigurationError: a model is there already. CheckpointError: the directory holds no export.
        UnsupportedError: an engine that Triton could not serve.
    """
    models = [model for tower in TOWERS for model in _find(Path(directory), tower, runtime)]
    if not models:
        raise CheckpointError(f"{directory}: holds no tower for runtime={runtime!r}")
    targets = [Path(repository) / f"{name}_{model.metadata.tower}" for model in models]
    present = [str(target) for target in targets if target.exists()]
    if present and not force:
        raise ConfigurationError(
            f"{' and '.join(present)} exist already; pass force (--force) to replace"
        )
    for model, target in zip(models, targets, strict=True):
        _write(model, target, queue_delay_us)
    return targets


def _write(model: _Model, target: Path, queue_delay_us: int) -> None:
    """One model's folder, complete before it has its name."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "1").mkdir(parents=True)
    for source, name in model.files.items():
        shutil.copyfile(source, partial / "1" / name)
    (partial / "config.pbtxt").write_text(_config(model, target.name, queue_delay_us))
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def _find(directory: Path, tower: str, runtime: Runtime) -> Iterator[_Model]:
    engine, graph = directory / f"{tower}.engine", directory / f"{tower}.onnx"
    if runtime != "onnxruntime" and engine.exists():
        sidecar = read_sidecar(engine)
        if sidecar.settings["strip_weights"]:
            raise UnsupportedError(
                f"{engine}: holds no weights, which Triton needs; build it without --strip-weights"
            )
        if min(profile[0] for profile in sidecar.profiles) > 1:
            raise UnsupportedError(
                f"{engine}: its profiles start above batch 1, which Triton may send; build one from 1"
            )
        yield _Model(sidecar.metadata(engine), "tensorrt", {engine: "model.plan"}, sidecar.profiles)
    elif runtime != "tensorrt" and graph.exists():
        model = read_graph(graph)
        properties = {entry.key: entry.value for entry in model.metadata_props}
        files = {graph: "model.onnx"}
        data = graph.with_name(graph.name + ".data")
        if any(tensor.external_data for tensor in model.graph.initializer):
            files[data] = data.name  # the graph names it so
        yield _Model(TowerMetadata.from_properties(properties, graph), "onnxruntime", files)


def _config(model: _Model, name: str, queue_delay_us: int) -> str:
    m = model.metadata
    input_type = "TYPE_INT32" if m.tower == "text" else _TYPES[m.pixels]
    row_shape = ", ".join(map(str, m.row_shape))
    lines = [
        f"name: {json.dumps(name)}",
        f"backend: {json.dumps(model.backend)}",
        f"max_batch_size: {model.largest}",
        f"input [ {{ name: {json.dumps(m.input_name)} data_type: {input_type} dims: [ {row_shape} ] }} ]",
        f"output [ {{ name: {json.dumps(m.output_name)} data_type: TYPE_FP32 dims: [ {m.config.embed_dim} ] }} ]",
        "dynamic_batching {",
        f"  preferred_batch_size: [ {', '.join(map(str, model.usual))} ]",
        f"  max_queue_delay_microseconds: {queue_delay_us}",
        "}",
        f"instance_group [ {{ count: 1 {_placement(model)} }} ]",
        'model_warmup [ { name: "first" batch_size: 1 inputs {',
        f"  key: {json.dumps(m.input_name)}",
        f"  value {{ data_type: {input_type} dims: [ {row_shape} ] zero_data: true }} }} }} ]",
    ]
    for key, value in m.to_properties().items():
        lines.append(
            f"parameters {{ key: {json.dumps(key)} value {{ string_value: {json.dumps(value)} }} }}"
        )
    return "\n".join(lines) + "\n"


def _placement(model: _Model) -> str:
    if model.backend != "tensorrt":
        return "kind: KIND_AUTO"
    profiles = ", ".join(f'"{index}"' for index in range(len(model.profiles)))
    return f"kind: KIND_GPU profile: [ {profiles} ]"
