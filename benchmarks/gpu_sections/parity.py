"""Are the kernels right on this device: their own tests, launched for real, and once more under the sanitizer."""

from __future__ import annotations

import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.gpu_context import Context, Row, run_tool

ROOT = Path(__file__).parents[2]
# The project's own options name plugins that a bare machine does not have.
PYTEST = [
    sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(ROOT),
    "--import-mode", "importlib", "-p", "no:cacheprovider", "-W", "ignore",
]  # fmt: skip
SECONDS = 240.0
WITHOUT_DEVICE = ("test_compile_report", "test_gpu_runner", "test_sources")
# They take the whole package, whose inputs import these.
WHOLE_PACKAGE = ("test_demo_model", "test_engine_on_a_layer")
INPUT_PACKAGES = ("ftfy", "simplejpeg")


def run(context: Context) -> list[Row]:
    """Each file of tests/kernels in a process of its own, side by side, since compiling is what takes the time;
    then the tests that write beside canaries under compute-sanitizer."""
    files = sorted((ROOT / "tests" / "kernels").glob("test_*.py"))
    files = [file for file in files if file.stem not in WITHOUT_DEVICE]
    alone = [file for file in files if file.stem not in WHOLE_PACKAGE]
    files = alone if context.rehearsal else files
    chosen = ["-k", "refuse or interpreters_hardware"] if context.rehearsal else []
    seconds = min(SECONDS, context.seconds_left())
    with ThreadPoolExecutor(2 if context.rehearsal else len(files)) as pool:
        rows = list(pool.map(lambda file: _unless_missing(file, chosen, seconds), files))
    if context.rehearsal:
        return rows
    sanitizer = ["compute-sanitizer", "--error-exitcode", "9", "--tool", "memcheck"]
    command = [*sanitizer, *PYTEST, *map(str, alone), "-k", "nothing_else"]
    memcheck = run_tool(command, min(45.0, context.seconds_left()), **tool_options())
    return [*rows, {"name": "compute-sanitizer memcheck", **memcheck}]


def _unless_missing(file: Path, chosen: list[str], seconds: float) -> Row:
    missing = [name for name in INPUT_PACKAGES if find_spec(name) is None]
    if file.stem in WHOLE_PACKAGE and missing:
        said = f"not installed: {', '.join(missing)}"
        return {"name": file.stem, "outcome": "not available here", "said": said}
    return run_tests(file, chosen, seconds)


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
