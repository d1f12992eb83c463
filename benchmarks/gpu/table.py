"""The engine's rows of a gpu.json, or of several runs', as a README table and a latency-throughput plot; nothing is
measured here.

python -m benchmarks.gpu.table benchmarks/results/h100.gpu.json [--plot gpu.png]
python -m benchmarks.gpu.table first/gpu.json second/gpu.json --merged benchmarks/results/h100.gpu.json
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from benchmarks.gpu.results import merged, write

NOT_MEASURED = "not measured"
_CELL = re.compile(r"(?P<model>\S+) batch (?P<batch>\d+), (?P<contestant>.+)")
_SIDE, _MARGIN = 640, 70
_COLOURS = (
    "#d4442e", "#e58a2b", "#8a1c7c", "#c8a400", "#3b6ea5", "#5f7f5f",
    "#6e7781", "#1b9aaa", "#4b3f72", "#9c6644", "#2d2d2d", "#b5838d",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One contestant's batch. ms: median. rate: images a second. cosine: as it is written in the file."""

    model: str
    batch: int
    contestant: str
    ms: float
    rate: int
    cosine: str


def cells(results: dict[str, Any]) -> list[Cell]:
    """The measured cells of the file, in its order.

    Raises: ValueError for a rehearsal, which has no figures.
    """
    if results["rehearsal"]:
        raise ValueError("a rehearsal has no figures; run `make gpu` on a machine with a GPU")
    found = []
    for row in results["sections"].get("engine", {"rows": []})["rows"]:
        match = _CELL.fullmatch(row["name"])
        if match is not None and "ms" in row:
            place = (match["model"], int(match["batch"]), match["contestant"])
            found.append(Cell(*place, row["ms"], row["items/s"], row["cosine"]))
    return found


def table(results: dict[str, Any]) -> str:
    """Images a second of every contestant, a line a model and batch; the last column is our best over theirs."""
    measured = cells(results)
    contestants = list(dict.fromkeys(cell.contestant for cell in measured))
    header = ["model", "batch", *contestants, "clipfast / fastest peer"]
    lines = [
        f"Images/s on {results['device']}, torch {results['versions']['torch']}, random weights.",
        "",
        f"| {' | '.join(header)} |",
        f"|{'---|' * len(header)}",
    ]
    for model, batch in dict.fromkeys((cell.model, cell.batch) for cell in measured):
        rates = {
            cell.contestant: cell.rate
            for cell in measured
            if (cell.model, cell.batch) == (model, batch)
        }
        shown = [f"{rates[name]:,}" if name in rates else NOT_MEASURED for name in contestants]
        lines.append(f"| {' | '.join([model, str(batch), *shown, _lead(rates)])} |")
    return "\n".join(lines)


def _lead(rates: dict[str, int]) -> str:
    """Our fastest exact precision over the fastest peer of such a precision, then the same of fp8."""
    said = []
    for name, is_fp8 in (("", False), ("fp8 ", True)):
        ours = [
            rates[at]
            for at in rates
            if at.startswith("clipfast") and ("fp8" in at) == is_fp8 and "int8" not in at
        ]
        peers = [
            rates[at] for at in rates if not at.startswith("clipfast") and ("fp8" in at) == is_fp8
        ]
        if ours and peers:
            said.append(f"{name}{max(ours) / max(peers):.2f}x")
    return ", ".join(said) or NOT_MEASURED


def plot(results: dict[str, Any], model: str) -> Image.Image:
    """Milliseconds of a batch across, images a second up, both logarithmic; a line a contestant.

    Raises: ValueError when nothing of the model was measured.
    """
    measured = [cell for cell in cells(results) if cell.model == model]
    if not measured:
        raise ValueError(f"no batch of {model} was measured")
    image = Image.new("RGB", (_SIDE, _SIDE), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    draw.text(
        (_MARGIN, 12), f"{model} on {results['device']}", "#1f2328", ImageFont.load_default(18)
    )
    draw.text((_SIDE // 2, _SIDE - 30), "ms a batch", "#6e7781", font)
    draw.text((8, 40), "images/s", "#6e7781", font)
    across = _axis([cell.ms for cell in measured], _MARGIN, _SIDE - _MARGIN)
    up = _axis([float(cell.rate) for cell in measured], _SIDE - _MARGIN, _MARGIN)
    for place, contestant in enumerate(dict.fromkeys(cell.contestant for cell in measured)):
        colour = _COLOURS[place % len(_COLOURS)]
        mine = sorted((c.batch, c.ms, c.rate) for c in measured if c.contestant == contestant)
        points = [(across(ms), up(float(rate))) for _, ms, rate in mine]
        draw.line(points, colour, 2)
        for (x, y), (batch, _, _) in zip(points, mine, strict=True):
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), colour)
            draw.text((x + 5, y + 3), str(batch), colour, ImageFont.load_default(11))
        draw.text((_MARGIN, 40 + 18 * place), contestant, colour, font)
    return image


def _axis(values: list[float], low: int, high: int) -> Any:
    """value -> pixel, logarithmic, the extremes at low and high."""
    least, most = math.log(min(values)), math.log(max(values))
    span = (most - least) or 1.0
    return lambda value: low + (high - low) * (math.log(value) - least) / span


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description="table and plot of a gpu.json")
    parser.add_argument("results", type=Path, nargs="+", help="of one device, in order")
    parser.add_argument("--merged", type=Path, help="where their rows go, together")
    parser.add_argument("--plot", type=Path, help="where the plot goes")
    parser.add_argument("--model", default="ViT-L-14", help="of the plot")
    options = parser.parse_args(arguments)
    results = reduce(merged, (json.loads(path.read_text()) for path in options.results))
    print(table(results))
    if options.merged is not None:
        write(results, options.merged)
    if options.plot is not None:
        plot(results, options.model).save(options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
