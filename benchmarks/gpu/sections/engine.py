"""How fast is the model as it is called: the engine in each precision, beside plain torch and the libraries.

Random weights at the published sizes, the same for everyone. Contestants of a cell take turns, so that a clock that
falls falls for all. Peers read normalised pixels that lie on the device in their dtype, ours reads uint8. Operations
are the textbook's, whoever leaves some out; a rate is also given as a share of torch's own matrix product of the same
kind in the same process. Cosines are to float64. Every batch is measured before anything is compiled; then programs are
compiled side by side, which fills the compiler's caches, and once more one by one for the cell that they take part in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from math import isnan

from benchmarks import work as inputs
from benchmarks.gpu.cell import CHECKED, Cell, not_measured
from benchmarks.gpu.contestants import Contestants, Entrants
from benchmarks.gpu.context import Context, Row, measure_ceilings, measure_fp8_ceiling
from benchmarks.gpu.host_time import host_figures
from benchmarks.gpu.plan import Choice
from benchmarks.gpu.programs import forget, programs
from benchmarks.gpu.warm import compile_side_by_side
from benchmarks.work import vision_flops
from clipfast.engine import Engine

SECONDS_OF_A_CELL = 15


def run(context: Context) -> Iterator[Row]:
    """A row a contestant of each of one model's cells."""
    choice = Choice.of(context.options)
    rates = {
        "matmul": measure_ceilings(context)["flops"],
        "fp8 matmul": measure_fp8_ceiling(context),
    }
    for name, rate in rates.items():
        if not isnan(rate):
            yield {"name": f"{choice.model} torch {name} 8192^3", "TFLOPS": round(rate / 1e12)}
    contestants = Contestants(choice, context)
    pixels = inputs.pixels(max(CHECKED, *choice.batches), contestants.config.vision.image_size)
    exact = contestants.exact_images(pixels[:CHECKED])
    reached: dict[int, tuple[Cell, Entrants]] = {}
    for batch in choice.batches:
        name = f"{choice.model} batch {batch}"
        if context.seconds_left() < SECONDS_OF_A_CELL:
            yield not_measured(name, "out of time")
            continue
        entrants = contestants.images(pixels[:batch])
        figures = partial(_figures, contestants, entrants, batch, rates)
        cell = Cell(context, name, exact[:batch], figures)
        yield from cell.contest(entrants.calls)
        reached[batch] = cell, entrants
    if choice.compiled:
        yield from _compiled(choice, contestants, reached)


def _compiled(
    choice: Choice, contestants: Contestants, reached: dict[int, tuple[Cell, Entrants]]
) -> Iterator[Row]:
    """The cells once more, with torch's compiler."""
    context, has_fp8 = contestants.context, contestants.has_fp8
    ahead = replace(choice, batches=tuple(reached))
    yield from compile_side_by_side(ahead, programs(has_fp8=has_fp8), context)
    for batch, (cell, entrants) in reached.items():
        forget()
        chosen = programs(has_fp8=has_fp8, batch=batch, largest=max(choice.batches))
        yield from cell.contest_compiled(contestants.programs(chosen, entrants))


def _figures(
    contestants: Contestants,
    entrants: Entrants,
    batch: int,
    rates: dict[str, float],
    name: str,
    row: Row,
) -> Row:
    """Of a contestant's milliseconds: rates, and what ours costs the host."""
    rate = batch * vision_flops(contestants.config) / (row["ms"] / 1e3)
    kind = "fp8 matmul" if "fp8" in name else "matmul"
    found: Row = {"items/s": round(1e3 * batch / row["ms"]), "TFLOPS": round(rate / 1e12, 1)}
    if not isnan(rates[kind]):
        found[f"of {kind}"] = f"{100 * rate / rates[kind]:.0f}%"
    engine = contestants.engines.get(name.removeprefix("clipfast "))
    call = entrants.calls.get(name)
    if isinstance(engine, Engine) and call is not None and not isinstance(call, str):
        found |= host_figures(engine, call, batch)
    return found
