r"""One command for a machine with a GPU: is everything right, and how fast is it?

    make gpu OUT=dir [ONLY=engine,kernels] [MINUTES=9]
    python3 -m benchmarks.gpu --out dir [--only engine,kernels] [--minutes 9] [--cells ViT-L-14:49,256] [--no-compile]

Nothing is downloaded; results are in dir/gpu.json. The system's Python is used as it is; a native module that fits the
device is taken as it is, else clipfast is built once. Sections run in order, each model of one in a process of its own,
so that a kernel that brings the device down costs one model; it is tried again without the contestant that did. The
file is written every few seconds, and a run cut short keeps what it has. What the machine refuses (a sanitizer, a
counter) is "not available here"; what time did not allow is "not reached" or "not measured". A later run into the same
folder adds its rows and takes the place of those that it measures again. Without a GPU nothing is measured and no file
is written; --rehearse runs every section on the CPU on tiny shapes, in Triton's interpreter, and has no figures.

Half an hour in three commands, for a machine whose files come without their history (CLIPFAST_COMMIT is then the
commit's name), each into its own folder; `python3 -m benchmarks.gpu.table` puts their files together:

    python3 -m benchmarks.gpu --out $OUT --minutes 9 --only parity,engine,cuda_parity,outliers --no-compile \
        --cells ViT-B-32:1,56,256 ViT-L-14:1,49,256
    python3 -m benchmarks.gpu --out $OUT --minutes 9 --only engine --cells ViT-L-14:49,1,256 ViT-B-32:56,1,256
    python3 -m benchmarks.gpu --out $OUT --minutes 9 --only texts,kernels,cuda_kernels,engine,pipeline,sanitizers \
        --cells ViT-B-16 ViT-L-14-336 ViT-H-14 RN50
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import device_state
from benchmarks.gpu.build import ROOT, build_name, ensure_built
from benchmarks.gpu.plan import SECTIONS, Task, cells, seconds_of, tasks
from benchmarks.gpu.processes import Row, end_with_programs, run
from benchmarks.gpu.results import added, merged, read, summary, write
from benchmarks.machine import machine_info

MINUTES = 9.0
# Of a section's time that are left to it to end by itself.
RESERVE = 15.0
# Times that a task is tried when a contestant of it brings the device down.
ATTEMPTS = 3
Entries = dict[str, dict[str, Any]]


def run_section(
    command: list[str], rows: Path, seconds: float, look: Callable[[list[Row]], None]
) -> dict[str, Any]:
    """A section in a process of its own: the rows that it has written count, however it ends.

    Args:
        command: writes a row of JSON a line to `rows`. seconds: it is stopped after these.
        look: is given the rows so far, every few seconds.
    """
    if seconds <= 0:
        return {"rows": [], "ok": False, "seconds": 0.0, "said": "not reached"}
    rows.unlink(missing_ok=True)
    done = run(command, seconds, shown=True, look=lambda: look(_read(rows)), cwd=ROOT)
    entry: dict[str, Any] = {"rows": _read(rows), "seconds": done.seconds}
    rows.unlink(missing_ok=True)
    entry["ok"] = done.status == 0 and all(row.get("ok", True) for row in entry["rows"])
    said = done.said.strip()[-4000:]
    if done.status is None:
        entry["said"] = f"{said}\nstopped after {seconds:.0f} s".strip()
    elif done.status:
        entry["said"] = said or f"it ended with status {done.status}"
    elif said:
        entry["warned"] = said  # a program that was compiled only in part says so here
    return entry


def run_tasks(
    planned: list[Task],
    command: Callable[[Task], list[str]],
    out: Path,
    deadline: float,
    flush: Callable[[Entries], None],
) -> Entries:
    """Runs the tasks in order, flushing as rows come; what goes wrong in one does not touch the next.

    command: writes the task's rows to the file after `--rows` within the seconds after `--seconds`.
    """
    entries: Entries = {}
    for index, task in enumerate(planned):
        print(f"--- {task.name}", flush=True)
        attempt = task
        for _ in range(ATTEMPTS):
            left = seconds_of(task, planned[index + 1 :], deadline - time.monotonic())
            done = _run_task(attempt, command(attempt), out, left, entries, flush)
            entries[task.section] = added(entries.get(task.section), attempt.name, done)
            flush(entries)
            lost = [row["lost"] for row in done["rows"] if "lost" in row]
            if not lost:
                break
            attempt = attempt.leaving_out(lost)
    return entries


def _run_task(
    task: Task,
    command: list[str],
    out: Path,
    seconds: float,
    entries: Entries,
    flush: Callable[[Entries], None],
) -> dict[str, Any]:
    def look(found: list[Row]) -> None:
        so_far = {"rows": found, "ok": False, "seconds": 0.0, "said": "it did not end"}
        flush({**entries, task.section: added(entries.get(task.section), task.name, so_far)})

    rows = out / f"{task.section}.rows"
    given = ["--rows", str(rows), "--seconds", str(max(seconds / 2, seconds - RESERVE))]
    return run_section([*command, *given], rows, seconds, look)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status: 0 when every section ran and held, 1 when one did not, 2 when results of
    something else are in the way, 4 without a GPU."""
    options = _options(arguments)
    if not options.rehearse and not torch.cuda.is_available():
        print("no CUDA device is visible to torch: nothing was measured", file=sys.stderr)
        return 4
    started = time.monotonic()
    end_with_programs()
    if options.rehearse:
        os.environ["TRITON_INTERPRET"] = "1"
    record: Row = {"arguments": sys.argv[1:] if arguments is None else arguments}
    results: dict[str, Any] = {"rehearsal": options.rehearse, "machine": machine_info()}
    results |= {"versions": device_state.versions(), "runs": [record], "sections": {}}
    record["commit"] = results["commit"] = device_state.commit()
    if not options.rehearse:
        results |= {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    path = options.out / "gpu.json"
    earlier = read(path)
    try:
        merged(earlier, results)
    except ValueError as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    has_fp8 = True
    if not options.rehearse:
        capability = torch.cuda.get_device_capability()
        has_fp8 = capability >= (8, 9)
        record["native module"] = ensure_built(build_name(*capability))
        record["clocks before"] = device_state.clocks()
        print(json.dumps(record), flush=True)

    def flush(entries: Entries) -> None:
        record["seconds"] = round(time.monotonic() - started, 1)
        write(merged(earlier, {**results, "sections": entries}), path)

    def command(task: Task) -> list[str]:
        rehearse = ["--rehearse"] if options.rehearse else []
        words = [sys.executable, "-m", "benchmarks.gpu.section", task.section, *rehearse]
        return words + task.options

    planned = tasks(
        options.only,
        options.cells,
        compiled=options.compiled,
        has_fp8=has_fp8,
        rehearsal=options.rehearse,
    )
    entries = run_tasks(planned, command, options.out, started + options.minutes * 60, flush)
    record["clocks after"] = device_state.clocks()
    flush(entries)
    print(summary({"sections": entries}))
    built = record.get("native module", {}).get("ok", True)
    return 0 if built and all(entry["ok"] for entry in entries.values()) else 1


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="parity and speed of the kernels on this GPU")
    parser.add_argument("--out", type=Path, required=True, help="folder of gpu.json")
    parser.add_argument("--only", type=_sections, default=list(SECTIONS), help="in this order: a,b")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for everything")
    parser.add_argument(
        "--cells", type=cells, nargs="+", default=[], help="of the engine: model:batch,batch"
    )
    parser.add_argument(
        "--no-compile", dest="compiled", action="store_false", help="no torch.compile"
    )
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, without figures")
    return parser.parse_args(arguments)


def _sections(said: str) -> list[str]:
    unknown = [name for name in said.split(",") if name not in SECTIONS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(SECTIONS)}")
    return said.split(",")


def _read(rows: Path) -> list[Row]:
    """Whole lines: a process that was stopped may leave half of one."""
    lines = rows.read_text().splitlines(keepends=True) if rows.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
