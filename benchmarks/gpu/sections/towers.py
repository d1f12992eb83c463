"""How fast are whole towers: the triton backend against the same towers in plain torch, eager and compiled.

Random weights at the published sizes, folded as a model's are. A CUDA graph of ours is timed beside the launched one,
because at small batches the launches are the time. Cosines are to plain torch in float32, TF32 off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

from benchmarks.gpu.context import Context, Row
from clipfast.backends import select_ops
from clipfast.backends.reference import REFERENCE
from clipfast.checkpoint.folds import fold
from clipfast.config import ARCHITECTURES, ModelConfig, VisionTransformerConfig
from clipfast.model import TextRows, encode_text, encode_vision
from clipfast.ops import Ops
from clipfast.parameters import Parameters, map_tensors
from tests.random_weights import random_weights, tiny

TOWERS = ("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-H-14")
BATCHES = (1, 32, 256)
COSINE = 0.999
# torch.compile takes half a minute a tower, so it is asked for two of them, at the largest batch.
COMPILED = ("ViT-B-32", "ViT-L-14")
SECONDS_OF_A_ROW = 45
Encode = Callable[[], torch.Tensor]
Run = Callable[[Parameters, Ops], torch.Tensor]


def run(context: Context) -> Iterator[Row]:
    """A row for each tower and batch that time allows."""
    configs = [tiny()] if context.rehearsal else [ARCHITECTURES[name] for name in TOWERS]
    for config in configs:
        if _late(context):
            yield {"name": config.name, "outcome": "not reached"}
        else:
            yield from _tower(config, context)


def _late(context: Context) -> bool:
    """Whether a row, its compilation with it, might end after the deadline."""
    return context.seconds_left() < SECONDS_OF_A_ROW and not context.rehearsal


def _tower(config: ModelConfig, context: Context) -> Iterator[Row]:
    weights = random_weights(config, seed=0)
    wide = map_tensors(fold(weights, config, torch.float32), lambda part: part.to(context.device))
    narrow = map_tensors(fold(weights, config, context.dtype), lambda part: part.to(context.device))
    ops = select_ops("triton", device=context.device, dtype=context.dtype)
    for batch in (1,) if context.rehearsal else BATCHES:
        runs = _vision(config, context, batch)
        compiled = config.name in COMPILED and batch == BATCHES[-1]
        name = f"{config.name} images, batch {batch}"
        if _late(context):
            yield {"name": name, "outcome": "not reached"}
            return
        yield _row(name, runs, (narrow, ops), wide, batch, context, compiled=compiled)
    texts = 2 if context.rehearsal else 1024
    runs = _text(config, context, texts)
    yield _row(
        f"{config.name} texts of 10 tokens, {texts}", runs, (narrow, ops), wide, texts, context
    )


def _vision(config: ModelConfig, context: Context, batch: int) -> Run:
    vision = config.vision
    assert isinstance(vision, VisionTransformerConfig)
    shape = (batch, 3, vision.image_size, vision.image_size)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=context.device)
    return lambda p, ops: encode_vision(p.vision, vision, ops, pixels)  # type: ignore[arg-type]


def _text(config: ModelConfig, context: Context, texts: int, length: int = 10) -> Run:
    ids = torch.randint(1, 40_000, (texts * length,), dtype=torch.int32, device=context.device)
    positions = torch.arange(length, dtype=torch.int32, device=context.device).repeat(texts)
    cu = torch.arange(0, texts * length + 1, length, dtype=torch.int32, device=context.device)
    rows = TextRows(ids, positions, cu)
    return lambda p, ops: encode_text(p.text, config.text, ops, rows)


def _row(
    name: str,
    run: Run,
    ours: tuple[Parameters, Ops],
    wide: Parameters,
    items: int,
    context: Context,
    *,
    compiled: bool = False,
) -> Row:
    narrow, ops = ours
    with torch.inference_mode():
        exact = run(wide, REFERENCE).double()
        cosine = F.cosine_similarity(run(narrow, ops).double(), exact).min().item()
        of_torch = F.cosine_similarity(run(narrow, REFERENCE).double(), exact).min().item()
        row: Row = {"name": name, "ok": cosine >= COSINE}
        row |= {"cosine": f"1 - {1 - cosine:.1e}", "torch cosine": f"1 - {1 - of_torch:.1e}"}
        for word, encode in _contestants(run, narrow, ops, context, compiled).items():
            timed = context.milliseconds(encode, seconds=0.5, cold=False)
            if timed:
                row[f"{word} ms"] = timed["ms"]
                row[f"{word} items/s"] = round(1e3 * items / timed["ms"])
    return row


def _contestants(
    run: Run, narrow: Parameters, ops: Ops, context: Context, compiled: bool
) -> dict[str, Encode]:
    found: dict[str, Encode] = {
        "triton": lambda: run(narrow, ops),
        "torch eager": lambda: run(narrow, REFERENCE),
    }
    if not context.rehearsal:
        found["triton graph"] = _graph(lambda: run(narrow, ops))
    if compiled:
        found["torch.compile"] = torch.compile(lambda: run(narrow, REFERENCE), dynamic=False)
    return found


def _graph(encode: Encode) -> Encode:
    """The same work as one CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            encode()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = encode()

    def replay() -> torch.Tensor:
        graph.replay()
        return result

    return replay
