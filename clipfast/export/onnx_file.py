"""ONNX files: a graph written, its weights inside it or beside it in one data file when they are large; and read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, helper

from clipfast.errors import CheckpointError
from clipfast.export.graph import ELEMENT_TYPES, Graph, Initializer

IR_VERSION = 10
EXTERNAL_DATA_BYTES = 100_000_000  # more weights than this go to `<name>.onnx.data`
_INLINE_BYTES = (
    1024  # smaller tensors stay inside: shapes and axes must be readable without the data file
)
_ALIGNMENT = 4096  # of each tensor in the data file, so that a runtime can map it


def read_graph(path: Path) -> ModelProto:
    """The model without what lies in its data file.

    Raises:
        CheckpointError: it is no ONNX file.
    """
    try:
        return onnx.load(str(path), load_external_data=False)
    except DecodeError:
        raise CheckpointError(f"{path}: not an ONNX file") from None


def opset_for(dtype: torch.dtype) -> int:
    """The lowest opset in which every operator we use has this dtype: Gelu is 20, bfloat16 Conv is 22."""
    return 22 if dtype == torch.bfloat16 else 20


def write_onnx(graph: Graph, path: Path, properties: Mapping[str, str], version: str) -> list[Path]:
    """Writes the model; the same graph and properties give the same bytes.

    Returns: the files written, the model first.
    """
    total = sum(initializer.nbytes for initializer in graph.initializers.values())
    files = [path]
    if total > EXTERNAL_DATA_BYTES:
        files.append(path.with_name(path.name + ".data"))
        tensors = _write_external(list(graph.initializers.values()), files[1])
    else:
        tensors = [_inline(initializer) for initializer in graph.initializers.values()]
    model = make_model(graph, tensors, properties, version)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return files


def make_model(
    graph: Graph, tensors: list[TensorProto], properties: Mapping[str, str], version: str
) -> ModelProto:
    model = helper.make_model(
        graph.to_proto(tensors),
        opset_imports=[helper.make_opsetid("", opset_for(graph.dtype))],
        ir_version=IR_VERSION,
        producer_name="clipfast",
        producer_version=version,
        doc_string=graph.describe(),
    )
    helper.set_model_props(model, dict(properties))
    return model


def _empty(initializer: Initializer) -> TensorProto:
    return TensorProto(
        name=initializer.name,
        data_type=ELEMENT_TYPES[initializer.dtype],
        dims=initializer.tensor.shape,
    )


def _inline(initializer: Initializer) -> TensorProto:
    tensor = _empty(initializer)
    tensor.raw_data = initializer.to_bytes()
    return tensor


def _write_external(initializers: list[Initializer], path: Path) -> list[TensorProto]:
    tensors = []
    with path.open("wb") as file:
        for initializer in initializers:
            if initializer.nbytes < _INLINE_BYTES:
                tensors.append(_inline(initializer))
                continue
            file.seek(-file.tell() % _ALIGNMENT, 1)
            tensor = _empty(initializer)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (
                ("location", path.name),
                ("offset", file.tell()),
                ("length", initializer.nbytes),
            ):
                tensor.external_data.add(key=key, value=str(value))
            file.write(initializer.to_bytes())
            tensors.append(tensor)
    return tensors
