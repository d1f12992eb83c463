"""The float32 twin of a bfloat16 graph: the same rounded weights, computed in float32.

ONNX Runtime's CPU provider has no bfloat16 arithmetic, so the twin is what can be run without a GPU: it shows that the
graph and its rounded weights are right, not what rounding the activations costs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto

from clipfast.export.onnx_file import EXTERNAL_DATA_BYTES


def write_float32_twin(path: Path, twin: Path) -> Path:
    """Reads a bfloat16 model and writes its twin; returns the twin's path."""
    model = onnx.load(str(path))
    widen(model)
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    onnx.save_model(
        model,
        str(twin),
        save_as_external_data=size > EXTERNAL_DATA_BYTES,
        location=twin.name + ".data",
    )
    return twin


def widen(model: ModelProto) -> None:
    """Every bfloat16 constant and cast of the model, whose weights are loaded, becomes float32, in place."""
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.BFLOAT16:
            halves = np.frombuffer(tensor.raw_data, np.uint16).astype(np.uint32)
            tensor.raw_data = (halves << 16).tobytes()
            tensor.data_type = TensorProto.FLOAT
    for node in model.graph.node:
        if node.op_type == "Cast" and node.attribute[0].i == TensorProto.BFLOAT16:
            node.attribute[0].i = TensorProto.FLOAT
