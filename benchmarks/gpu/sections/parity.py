"""Are the kernels right on this device: their own tests, launched for real, and once more under the sanitizer."""

from __future__ import annotations

import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.gpu.context import Context, Row, run_tool

ROOT = Path(__file__).parents[3]
# The project's own options name plugins that a bare machine does not have.
PYTEST = [
    sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(ROOT),
    "--import-mode", "importlib", "-p", "no:cacheprovider", "-W", "ignore",
]  # fmt: skip
SECONDS = 240.0
WITHOUT_DEVICE = ("test_compile_report", "test_gpu_runner", "test_gpu_towers", "test_sources")


def run(context: Context) -> list[Row]:
    """Each file of tests/kernels in a process of its own, side by side, since compiling is what takes the time;
    then the tests that write beside canaries under compute-sanitizer. A rehearsal only imports them."""
    files = sorted((ROOT / "tests" / "kernels").glob("test_*.py"))
    files = [file for file in files if file.stem not in WITHOUT_DEVICE]
    chosen = ["--collect-only"] if context.rehearsal else []
    seconds = min(SECONDS, context.seconds_left())
    with ThreadPoolExecutor(2 if context.rehearsal else len(files)) as pool:
        rows = list(pool.map(lambda file: run_tests(file, chosen, seconds), files))
    if context.rehearsal:
        return rows
    sanitizer = ["compute-sanitizer", "--error-exitcode", "9", "--tool", "memcheck"]
    command = [*sanitizer, *PYTEST, *map(str, files), "-k", "nothing_else"]
    memcheck = run_tool(command, min(45.0, context.seconds_left()), **tool_options())
    return [*rows, {"name": "compute-sanitizer memcheck", **memcheck}]


def run_tests(file: Path, chosen: list[str], seconds: float) -> Row:
    """What pytest says of a file: its outcome, and how many passed, failed and were skipped."""
    row = run_tool([*PYTEST, str(file), *chosen], seconds, **tool_options())
    counts = re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", row["said"])
    return {
        "name": file.stem,
        "ok": row["outcome"] == "ok",
        **row,
        **{word: int(count) for count, word in counts},
    }


def tool_options() -> dict[str, Any]:
    """Where a program runs that imports this checkout."""
    return {"cwd": ROOT, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}
