"""torch.onnx's export of transformers' towers in ONNX Runtime: fixed shapes, texts padded to the whole context."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers import Prepared
from benchmarks.peers.modules import tower, tower_inputs
from benchmarks.work import Work


def requires(work: Work) -> tuple[str, ...]:
    return ("onnxruntime", "onnx", "transformers")


def variants(work: Work) -> tuple[str, ...]:
    return ("all optimisations",)


def prepare(work: Work, variant: str) -> Prepared:
    values = tower_inputs(work)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            tower(work),
            (values,),
            path,
            dynamo=False,
            opset_version=18,
            input_names=["inputs"],
            do_constant_folding=True,
        )
        session = open_session(path, work.threads)
    feed = {"inputs": values.numpy()}

    def call() -> Any:
        return session.run(None, feed)[0]

    return Prepared(call, work.batch, call)


def open_session(path: Path, threads: int) -> Any:
    """A session on the CPU provider, with every optimisation."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
