"""OpenVINO: static shapes, latency and throughput hints, float32, bfloat16, and int8 by NNCF."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from benchmarks.peers import Prepared
from benchmarks.peers.modules import longest, tower, tower_inputs
from benchmarks.work import Work, has_resnet

_STREAMS = {"latency": 0, "throughput, 1 stream": 1, "throughput, 2 streams": 2}
_CALIBRATION_ITEMS = 64


def requires(work: Work) -> tuple[str, ...]:
    return ("openvino", "nncf") if work.precision == "int8" else ("openvino",)


def variants(work: Work) -> tuple[str, ...]:
    return tuple(_STREAMS)


def prepare(work: Work, variant: str) -> Prepared:
    """One call is one batch, or with two streams two batches at once, one on each."""
    import openvino

    streams = _STREAMS[variant]
    options: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": work.threads,
        "INFERENCE_PRECISION_HINT": "f32" if work.precision == "fp32" else "bf16",
        "PERFORMANCE_HINT": "THROUGHPUT" if streams else "LATENCY",
    }
    if streams:
        options["NUM_STREAMS"] = streams
    compiled = openvino.Core().compile_model(_converted(work), "CPU", options)
    requests = [compiled.create_infer_request() for _ in range(max(1, streams))]
    values = _inputs(work)
    for request in requests:
        request.set_input_tensor(openvino.Tensor(values))
    return Prepared(_start_all(requests), work.batch * len(requests), lambda: _first(requests))


def _start_all(requests: list[Any]) -> Callable[[], Any]:
    if len(requests) == 1:
        return requests[0].infer

    def call() -> None:
        for request in requests:
            request.start_async()
        for request in requests:
            request.wait()

    return call


def _first(requests: list[Any]) -> Any:
    requests[0].infer()
    return np.array(requests[0].get_output_tensor(0).data)


def _inputs(work: Work) -> Any:
    length = longest(work) if work.task == "texts" else None
    return np.ascontiguousarray(_float32_inputs(work, length).numpy())


def _float32_inputs(work: Work, length: int | None) -> Any:
    values = tower_inputs(work, length=length)
    return values.float() if work.task == "images" else values


@cache
def _converted(work: Work) -> Any:
    """The model with this work's shape; int8 is calibrated on the images and texts that are measured, and more."""
    import openvino
    import torch

    values = torch.from_numpy(_inputs(work))
    with torch.no_grad():
        module = tower(work).float()
        converted = openvino.convert_model(
            module, example_input=values, input=[tuple(values.shape)]
        )
    if work.precision == "int8":
        converted = _quantised(converted, work)
    return converted


def _quantised(converted: Any, work: Work) -> Any:
    import nncf

    values = _inputs(work)
    batches = max(1, _CALIBRATION_ITEMS // work.batch)
    rolled = [np.roll(values, shift, axis=-1) for shift in range(batches)]
    samples = rolled if work.task == "images" else [values]
    return nncf.quantize(
        converted,
        nncf.Dataset(samples),
        subset_size=len(samples),
        model_type=None if has_resnet(work) else nncf.ModelType.TRANSFORMER,
    )
