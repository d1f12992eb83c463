"""Do the kernels stay within their memory and their order: small tests under compute-sanitizer's tools."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu.context import Context, Row
from benchmarks.gpu.processes import run_tool
from benchmarks.gpu.sections.cuda_parity import FILES
from benchmarks.gpu.sections.parity import PYTEST, files, tool_options

SECONDS = 60.0
# torch gives out parts of large allocations, within which a tool sees no border.
_UNCACHED = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}


def run(context: Context) -> Iterator[Row]:
    """The tests that write beside canaries, then the CUDA kernels' small shapes."""
    for name, tool, tests, word, environment in (
        ("kernels", "memcheck", files(), "nothing_else", _UNCACHED),
        ("cuda kernels", "memcheck", FILES, "small", _UNCACHED),
        ("cuda kernels", "racecheck", FILES, "small", {}),
    ):
        row = _checked(tool, tests, word, environment, context)
        yield {"name": f"compute-sanitizer {tool}, {name}", **row}


def _checked(
    tool: str, tests: list[Path], word: str, environment: dict[str, str], context: Context
) -> Row:
    sanitizer = ["compute-sanitizer", "--target-processes", "all", "--error-exitcode", "9"]
    command = [*sanitizer, "--tool", tool, *PYTEST, *map(str, tests), "-k", word]
    limit = min(SECONDS, context.seconds_left())
    return run_tool(command, limit, **tool_options(**environment))
