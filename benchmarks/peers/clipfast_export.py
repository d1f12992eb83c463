"""Our ONNX export in ONNX Runtime, fed uint8 pixels or padded tokens: the graph alone, without our engine."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import work as inputs
from benchmarks.peers import Prepared
from benchmarks.peers.torch_onnx import open_session
from benchmarks.work import TEXT_TASKS, Work
from clipfast.checkpoint import load_checkpoint
from clipfast.config import ModelConfig


def requires(work: Work) -> tuple[str, ...]:
    return ("onnxruntime", "onnx")


def variants(work: Work) -> tuple[str, ...]:
    return ("all optimisations",)


def prepare(work: Work, variant: str) -> Prepared:
    from clipfast.export.onnx import export_onnx

    checkpoint = load_checkpoint(work.weights)
    tower = "text" if work.task in TEXT_TASKS else "image"
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(checkpoint, folder, tower=tower, batch=(1, work.batch, work.batch))
        session = open_session(Path(folder) / f"{tower}.onnx", work.threads)
    feed = {session.get_inputs()[0].name: _values(work, checkpoint.config)}

    def call() -> Any:
        return session.run(None, feed)[0]

    return Prepared(call, work.batch, call)


def _values(work: Work, config: ModelConfig) -> np.ndarray[Any, Any]:
    if work.task in TEXT_TASKS:
        return inputs.token_ids(work.task, work.batch, config.text.context_length)
    return inputs.pixels(work.batch, config.vision.image_size)
