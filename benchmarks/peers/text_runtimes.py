"""Any number of texts through a text tower on another runtime: micro-batches of ids, padded as the peer pads them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from benchmarks.peers import Prepared
from benchmarks.peers.modules import tower
from benchmarks.work import MODELS, Work, token_ids

Ids = np.ndarray[Any, Any]  # (n, L) int64
Cut = Callable[[Ids], list[Ids]]
# Prompts come by the thousand: a peer's call encodes one in so many of them.
PROMPTS_SAMPLED = 20
_STREAMS = 2


def prepare(work: Work, runtime: str, cut: Cut, *, static: bool) -> Prepared:
    """A call encodes the work's texts (of prompts, a sample) in the micro-batches that `cut` makes of them."""
    ids = token_ids(work.task, work.batch, MODELS[work.model].text.context_length).astype(np.int64)
    texts = ids[:: PROMPTS_SAMPLED if work.task == "prompts" else 1]
    batches = cut(texts)
    first = ids[: len(batches[0])]
    if not static:
        first = first[:, : first.argmax(axis=1).max() + 1]
    run = RUNTIMES[runtime](work, batches[0].shape if static else None)
    return Prepared(lambda: run(batches), len(texts), lambda: run([first])[0])


def _openvino(work: Work, shape: tuple[int, ...] | None, streams: int) -> Any:
    """As many requests at a time as there are streams, all threads together."""
    import openvino

    options = {
        "INFERENCE_NUM_THREADS": work.threads,
        "INFERENCE_PRECISION_HINT": "f32" if work.precision == "fp32" else "bf16",
        "PERFORMANCE_HINT": "THROUGHPUT",
        "NUM_STREAMS": streams,
    }
    compiled = openvino.Core().compile_model(_converted(work, shape), "CPU", options)
    queue = openvino.AsyncInferQueue(compiled, streams)
    rows: dict[int, Any] = {}

    def keep(request: Any, index: int) -> None:
        rows[index] = np.array(request.get_output_tensor(0).data)

    queue.set_callback(keep)

    def run(batches: list[Ids]) -> list[Any]:
        for index, batch in enumerate(batches):
            queue.start_async([batch], index)
        queue.wait_all()
        return [rows[index] for index in range(len(batches))]

    return run


@cache
def _converted(work: Work, shape: tuple[int, ...] | None) -> Any:
    import openvino

    module = tower(work).float()
    example = torch.full(shape or (2, 9), 49407)
    with torch.no_grad():
        return openvino.convert_model(
            module, example_input=example, input=[shape or openvino.PartialShape([-1, -1])]
        )


def _transformers(work: Work, shape: tuple[int, ...] | None) -> Any:
    return _of_module(tower(work), work)


def _torch_compile(work: Work, shape: tuple[int, ...] | None) -> Any:
    import torch._inductor.config as inductor

    inductor.freezing = True
    torch.compiler.reset()
    return _of_module(torch.compile(tower(work), dynamic=shape is None), work)


def _of_module(module: Callable[[torch.Tensor], torch.Tensor], work: Work) -> Any:
    torch.set_num_threads(work.threads)

    def run(batches: list[Ids]) -> list[Any]:
        with torch.no_grad():
            return [module(torch.from_numpy(batch)).float().numpy() for batch in batches]

    return run


RUNTIMES: dict[str, Callable[[Work, tuple[int, ...] | None], Callable[[list[Ids]], list[Any]]]] = {
    "openvino": partial(_openvino, streams=1),
    "openvino, 2 streams": partial(_openvino, streams=_STREAMS),
    "transformers": _transformers,
    "torch_compile": _torch_compile,
}
