"""What an ONNX file is, and whether TensorRT could run it, read without its weights and without either runtime."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from onnx import ModelProto, TensorProto, ValueInfoProto

from clipfast.errors import OperatorError
from clipfast.export.onnx_file import read_graph
from clipfast.export.operators import find_violations
from clipfast.runtimes.metadata import own_properties


def describe_onnx(path: Path) -> dict[str, Any]:
    """A JSON-ready description of any ONNX file, and under "clipfast" what an export of ours says about itself.

    Raises:
        CheckpointError: it is no ONNX file.
    """
    model = read_graph(path)
    graph = model.graph
    return {
        "file": str(path),
        "kind": "onnx",
        "bytes": path.stat().st_size,
        "data_files": _data_files(path, model),
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "ir_version": model.ir_version,
        "opsets": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "inputs": [_describe(value) for value in graph.input],
        "outputs": [_describe(value) for value in graph.output],
        "nodes": len(graph.node),
        "operators": dict(sorted(Counter(node.op_type for node in graph.node).items())),
        "weights": _weights(model),
        "tensorrt": _tensorrt(model),
        "clipfast": own_properties({p.key: p.value for p in model.metadata_props}),
    }


def _tensorrt(model: ModelProto) -> list[str]:
    """Why TensorRT could not run it; empty when it can."""
    try:
        return [str(violation) for violation in find_violations(model)]
    except OperatorError as error:
        return [str(error)]


def _data_files(path: Path, model: ModelProto) -> dict[str, int | None]:
    """External data files and their sizes; None for one that is missing."""
    names = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    files = {name: path.with_name(name) for name in sorted(names)}
    return {name: file.stat().st_size if file.exists() else None for name, file in files.items()}


def _weights(model: ModelProto) -> dict[str, int]:
    """Elements by dtype."""
    counts: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        elements = 1
        for size in tensor.dims:
            elements *= size
        counts[TensorProto.DataType.Name(tensor.data_type).lower()] += elements
    return dict(sorted(counts.items()))


def _describe(value: ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    return {
        "name": value.name,
        "dtype": TensorProto.DataType.Name(tensor.elem_type).lower(),
        "shape": [size.dim_param or size.dim_value for size in tensor.shape.dim],
    }
