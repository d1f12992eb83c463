"""What the host spends on a batch of ours, and what it would spend on its graphs alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.gpu.context import Row
from clipfast.engine import Engine


def host_figures(engine: Engine, call: Callable[[], object], batch: int) -> Row:
    """Microseconds of the host: of the call, of replaying the same graphs with nothing around them, and between."""
    found: Row = {"host us": _host_microseconds(call)}
    replay = replays(engine, batch)
    if replay is not None:
        found["replay us"] = _host_microseconds(replay)
        found["host us beyond replay"] = round(found["host us"] - found["replay us"], 1)
    return found


def replays(engine: Engine, batch: int) -> Callable[[], None] | None:
    """Replays the graphs that a batch of images runs through; None where it has none."""
    placement = engine.placement
    if placement is None or placement.images._graphs is None:  # noqa: SLF001
        return None
    batching, captured = placement.images._batching, placement.images._graphs._captured  # noqa: SLF001
    keys = [(batching.bucket(piece), True) for piece in batching.pieces(batch)]
    if any(key not in captured for key in keys):
        return None
    graphs = [captured[key].graph for key in keys]

    def replay() -> None:
        for graph in graphs:
            graph.replay()

    return replay


def _host_microseconds(call: Callable[[], object]) -> float:
    """The device idle before, and left alone meanwhile."""
    spent = []
    for _ in range(30):
        torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        spent.append(time.perf_counter() - started)
    return round(1e6 * statistics.median(spent), 1)
