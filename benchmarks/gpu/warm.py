"""Compiles programs side by side, each in a process of its own, before one process compiles them again to time them:
the compiler's caches are filled on all cores at once. Nothing is timed here, and nothing is tuned by timing.

python -m benchmarks.gpu.warm PROGRAM --model=ViT-L-14 --batches=49 [--rehearse]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from benchmarks import work as inputs
from benchmarks.gpu.build import ROOT
from benchmarks.gpu.contestants import Contestants
from benchmarks.gpu.context import Context, Row
from benchmarks.gpu.plan import PEERS, Choice, config_of
from benchmarks.gpu.processes import run_tool
from benchmarks.gpu.programs import PROGRAMS, Program

AT_ONCE = 6
SECONDS = 240.0


def compile_side_by_side(
    choice: Choice, programs: Sequence[Program], context: Context
) -> Iterator[Row]:
    """Compiles the programs for every batch; a row that says how many were, and how long it took."""
    wanted = [
        (program.name, replace(choice, batches=(batch,)))
        for batch in choice.batches
        for program in programs
        if program.name not in choice.without
    ]
    if not wanted:
        return
    workers = min(len(wanted), AT_ONCE, max(1, len(os.sched_getaffinity(0)) // 2))
    started = time.monotonic()

    def compile_one(program: str, one: Choice) -> Row:
        command = [sys.executable, "-m", "benchmarks.gpu.warm", program, *one.options()]
        threads = max(1, len(os.sched_getaffinity(0)) // workers)
        environment = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": str(threads)}
        seconds = min(SECONDS, context.seconds_left() / 2)
        rehearse = ["--rehearse"] if context.rehearsal else []
        return run_tool([*command, *rehearse], seconds, cwd=ROOT, env=environment)

    with ThreadPoolExecutor(workers) as pool:
        rows = list(pool.map(lambda one: compile_one(*one), wanted))
    failed = [row["said"] for row in rows if row["outcome"] != "ok"]
    row: Row = {"name": f"{choice.model} programs compiled side by side"}
    row |= {"outcome": f"{len(rows) - len(failed)} of {len(rows)}"}
    row["seconds"] = round(time.monotonic() - started, 1)
    yield {**row, "said": failed[0]} if failed else row


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description="compiles one program")
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, without compiling")
    options, own = parser.parse_known_args(arguments)
    choice = replace(Choice.of(own), precisions=(), without=PEERS)
    context = Context(torch.device("cpu" if options.rehearse else "cuda"), time.monotonic())
    contestants = Contestants(choice, context)
    pixels = inputs.pixels(choice.batches[0], config_of(choice.model).vision.image_size)
    with torch.inference_mode():
        contestants.compiled(PROGRAMS[options.program], contestants.images(pixels))()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
