"""How fast are texts: ours from str, packed, beside plain torch and the libraries, which read ids padded to 77."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import work as inputs
from benchmarks.gpu.cell import CHECKED, Cell, not_measured
from benchmarks.gpu.contestants import Contestants
from benchmarks.gpu.context import Context, Row
from benchmarks.gpu.plan import Choice
from benchmarks.gpu.programs import forget, programs

CAPTIONS, LONG_TEXTS = 1024, 256
SECONDS_OF_A_CELL = 15


def run(context: Context) -> Iterator[Row]:
    """A row a contestant of captions, and of texts that fill the context, so that nothing is gained by packing."""
    choice = Choice.of(context.options)
    contestants = Contestants(choice, context)
    captions = inputs.texts("captions", CAPTIONS)
    length = contestants.config.text.context_length
    full = [" ".join(captions[i : i + length // 2]) for i in range(LONG_TEXTS)]
    short, long = (3, 2) if context.rehearsal else (CAPTIONS, LONG_TEXTS)
    sizes = {f"{short} captions": captions[:short], f"{long} texts of {length} tokens": full[:long]}
    cells = []
    for said, texts in sizes.items():
        name, count = f"{choice.model} {said}", len(texts)
        if context.seconds_left() < SECONDS_OF_A_CELL:
            yield not_measured(name, "out of time")
            continue
        exact = contestants.exact_texts(texts[:CHECKED])

        def figures(_: str, row: Row, count: int = count) -> Row:
            return {"items/s": round(1e3 * count / row["ms"])}

        cell, entrants = Cell(context, name, exact, figures), contestants.texts(texts)
        yield from cell.contest(entrants.calls)
        cells.append((cell, entrants))
    for cell, entrants in cells if choice.compiled else []:
        forget()
        chosen = contestants.programs(programs(has_fp8=contestants.has_fp8), entrants)
        yield from cell.contest_compiled(chosen)
