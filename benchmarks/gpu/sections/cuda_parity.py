"""Are the CUDA kernels right on this device: their tests, launched for real, and once more under the sanitizer's tools.

In a rehearsal the tests' small shapes run on the checking machine of tests/cuda/host.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.gpu.context import Context, Row, run_tool
from benchmarks.gpu.sections.parity import PYTEST, ROOT, run_tests, tool_options
from tests.cuda.machine import missing_device

FOLDER = ROOT / "tests" / "cuda"
FILES = [FOLDER / "test_on_device.py", FOLDER / "test_on_device_gallery.py"]
TOWERS = FOLDER / "test_towers.py"
SECONDS = 150.0
SANITIZER_SECONDS = 60.0


def run(context: Context) -> list[Row]:
    """Small shapes, published shapes, then small ones under memcheck and racecheck."""
    reason = missing_device()
    if not context.rehearsal and reason is not None:
        return [{"name": "the native module", "ok": False, "said": reason}]
    seconds = min(SECONDS, context.seconds_left())
    chosen = [(file, "small") for file in (*FILES, TOWERS)]
    if not context.rehearsal:
        chosen += [(file, "published") for file in FILES]
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(lambda each: _tests(*each, seconds), chosen))
    if context.rehearsal:
        return rows
    for tool in ("memcheck", "racecheck"):
        sanitizer = ["compute-sanitizer", "--error-exitcode", "9", "--tool", tool]
        command = [*sanitizer, *PYTEST, *map(str, FILES), "-k", "small"]
        limit = min(SANITIZER_SECONDS, context.seconds_left())
        rows.append(
            {"name": f"compute-sanitizer {tool}", **run_tool(command, limit, **tool_options())}
        )
    return rows


def _tests(file: Path, word: str, seconds: float) -> Row:
    return {**run_tests(file, ["-k", word], seconds), "name": f"{file.stem} {word}"}
