"""How fast is each CUDA kernel at the published shapes, beside torch and the Triton kernel, against its target.

Every row holds its error to float64 beside plain torch's, and the time of every peer; a peer that refuses a shape, or
for which memory does not reach, is "not available here". A missed target is a figure, not a failure. In a rehearsal the
kernels are those of the checking machine of tests/cuda/host, on tiny shapes, without figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.gpu.cell import device_is_lost
from benchmarks.gpu.context import Context, Row, ceiling_rows, measure_ceilings
from benchmarks.gpu.sections.cuda_cells import Call, Cell, cells
from tests.cuda.machine import machine, missing_device
from tests.tolerances import CUDA_COSINE


def run(context: Context) -> Iterator[Row]:
    """A row for each cell that time allows, after the device's own ceilings."""
    reason = missing_device()
    if not context.rehearsal and reason is not None:
        yield {"name": "the native module", "ok": False, "said": reason}
        return
    limits = measure_ceilings(context)
    if not context.rehearsal:
        yield from ceiling_rows(limits)
    for cell in cells(context, machine()):
        if context.seconds_left() < 10:
            yield {"name": cell.name, "outcome": "not reached"}
            continue
        try:
            yield _measure(cell, context, limits)
        except RuntimeError as error:
            yield {"name": cell.name, "ok": False, "said": str(error)[-2000:]}
            if device_is_lost(error):
                raise


def _measure(cell: Cell, context: Context, limits: dict[str, float]) -> Row:
    row = {"name": cell.name, **_errors(cell)}
    peers = {name: _time(call, context) for name, call in cell.peers.items()}
    ours = context.milliseconds(cell.ours)
    row["peers"] = {name: timed.get("outcome", "ok") for name, timed in peers.items()}
    if not ours:
        return row
    seconds = ours["ms"] / 1e3
    row |= ours
    row |= {f"{name} ms": timed["ms"] for name, timed in peers.items() if "ms" in timed}
    row["TFLOPS"], row["GBps"] = (
        round(cell.flops / seconds / 1e12),
        round(cell.bytes / seconds / 1e9),
    )
    used = max(cell.flops / limits["flops"], cell.bytes / limits["bytes"]) / seconds
    row["percent of peak"] = round(100 * used)
    return row | _target(cell, ours["ms"], peers)


def _errors(cell: Cell) -> Row:
    """Twice: the same bits; and the parity rule on the rows that are compared."""
    exact, ours, plain = cell.exact(), cell.ours(), cell.plain()
    same = torch.equal(ours, cell.ours())
    error, of_torch = (
        (x.reshape(-1)[: exact.numel()].double() - exact.reshape(-1)).abs().max().item()
        for x in (ours, plain)
    )
    floor = 0.0
    if ours.dtype == torch.float32:
        floor = CUDA_COSINE
    elif ours.dtype.is_floating_point:
        floor = torch.finfo(ours.dtype).eps * exact.abs().max().item()
    return {
        "ok": same and error <= 2 * of_torch + floor,
        "same bits twice": same,
        "error": f"{error:.1e}",
        "torch error": f"{of_torch:.1e}",
    }


def _time(call: Call, context: Context) -> Row:
    """A peer's time, or why there is none."""
    try:
        return context.milliseconds(call)
    except RuntimeError as error:
        words = str(error).splitlines() or [type(error).__name__]
        return {"outcome": f"not available here: {words[0][:120]}"}


def _target(cell: Cell, ms: float, peers: dict[str, Row]) -> dict[str, Any]:
    """How often ours fits into the best peer's time, or items a second, and whether that is the target."""
    if cell.items:
        reached = 1e3 * cell.items / ms
        found: dict[str, Any] = {"items/s": round(reached)}
    else:
        times = {
            name: timed["ms"] / ms
            for name, timed in peers.items()
            if "ms" in timed and name.startswith(cell.against)
        }
        if not times:
            return {}
        best = min(times, key=lambda name: times[name])
        reached = times[best]
        found = {"best peer": best, "times best peer": round(reached, 2)}
    if cell.target is None:
        return found
    return {**found, "target": cell.target, "reached": reached >= cell.target}
