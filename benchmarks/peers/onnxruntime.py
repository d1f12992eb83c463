"""ONNX Runtime on its CPU provider: float32, and int8 by its own dynamic quantisation."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers import Prepared
from benchmarks.peers.modules import longest, tower, tower_inputs
from benchmarks.work import Work


def requires(work: Work) -> tuple[str, ...]:
    return ("onnxruntime", "onnx")


def variants(work: Work) -> tuple[str, ...]:
    return ("all optimisations",)


def prepare(work: Work, variant: str) -> Prepared:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = work.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(
        str(_exported(work)), options, providers=["CPUExecutionProvider"]
    )
    feed = {session.get_inputs()[0].name: _values(work).numpy()}

    def call() -> Any:
        return session.run(None, feed)[0]

    return Prepared(call, work.batch, call)


def _values(work: Work) -> torch.Tensor:
    return tower_inputs(work, length=longest(work) if work.task == "texts" else None)


@cache
def _exported(work: Work) -> Path:
    """A model file with this work's shape, in a temporary folder of the process."""
    folder = Path(tempfile.mkdtemp(dir=work.weights))
    path = folder / "model.onnx"
    with torch.no_grad():
        torch.onnx.export(
            tower(work),
            (_values(work),),
            path,
            dynamo=False,
            opset_version=18,
            input_names=["inputs"],
            do_constant_folding=True,
        )
    if work.precision != "int8":
        return path
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantised = folder / "int8.onnx"
    quantize_dynamic(path, quantised, weight_type=QuantType.QInt8, per_channel=True)
    return quantised
