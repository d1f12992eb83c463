"""Are the CUDA kernels right on this device: their tests, launched for real.

In a rehearsal the tests' small shapes run on the checking machine of tests/cuda/host.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu.build import ROOT
from benchmarks.gpu.context import Context, Row
from benchmarks.gpu.sections.parity import run_tests, side_by_side
from tests.cuda.machine import missing_device

FOLDER = ROOT / "tests" / "cuda"
FILES = [FOLDER / "test_on_device.py", FOLDER / "test_on_device_gallery.py"]
TOWERS = FOLDER / "test_towers.py"
SECONDS = 150.0


def run(context: Context) -> Iterator[Row]:
    """Small shapes, then published ones."""
    reason = missing_device()
    if not context.rehearsal and reason is not None:
        yield {"name": "the native module", "ok": False, "said": reason}
        return
    chosen = [(file, "small") for file in (*FILES, TOWERS)]
    if not context.rehearsal:
        chosen += [(file, "published") for file in FILES]
    jobs = [lambda file=file, word=word: _tests(file, word, context) for file, word in chosen]
    yield from side_by_side(jobs, 2)


def _tests(file: Path, word: str, context: Context) -> Row:
    row = run_tests(file, ["-k", word], SECONDS, context)
    return {**row, "name": f"{file.stem} {word}"}
