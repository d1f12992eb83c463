"""Are the kernels right on this device: their own tests, launched for real."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks.gpu.build import ROOT
from benchmarks.gpu.context import Context, Row
from benchmarks.gpu.processes import run_tool

# The project's own options name plugins that a bare machine does not have.
PYTEST = [
    sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(ROOT),
    "--import-mode", "importlib", "-p", "no:cacheprovider", "-W", "ignore",
]  # fmt: skip
SECONDS = 240.0
WITHOUT_DEVICE = (
    "test_compile_report", "test_gpu_contestants", "test_gpu_runner", "test_gpu_towers", "test_sources",
)  # fmt: skip


def run(context: Context) -> Iterator[Row]:
    """Each file of tests/kernels in a process of its own, side by side, since compiling is what takes the time. A
    rehearsal only imports them."""
    chosen = ["--collect-only"] if context.rehearsal else []
    jobs = [lambda file=file: run_tests(file, chosen, SECONDS, context) for file in files()]
    yield from side_by_side(jobs, 2 if context.rehearsal else len(jobs))


def files() -> list[Path]:
    """Of the tests that ask the device something."""
    found = sorted((ROOT / "tests" / "kernels").glob("test_*.py"))
    return [file for file in found if file.stem not in WITHOUT_DEVICE]


def side_by_side(jobs: Sequence[Callable[[], Row]], workers: int) -> Iterator[Row]:
    """Each job's row as soon as it is known."""
    with ThreadPoolExecutor(workers) as pool:
        for done in as_completed([pool.submit(job) for job in jobs]):
            yield done.result()


def run_tests(file: Path, chosen: list[str], seconds: float, context: Context) -> Row:
    """What pytest says of a file, in `seconds` or what is left: its outcome, and how many passed, failed, skipped."""
    limit = min(seconds, context.seconds_left())
    row = run_tool([*PYTEST, str(file), *chosen], limit, **tool_options())
    counts = re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", row["said"])
    return {
        "name": file.stem,
        "ok": row["outcome"] == "ok",
        **row,
        **{word: int(count) for count, word in counts},
    }


def tool_options(**environment: str) -> dict[str, Any]:
    """Where a program runs that imports this checkout, beside others that do."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "2"}
    return {"cwd": ROOT, "env": {**os.environ, **own, **environment}}
