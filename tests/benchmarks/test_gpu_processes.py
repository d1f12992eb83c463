"""Programs of `make gpu`: refused, failed, too long; whatever they started goes with them."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu.build import ROOT
from benchmarks.gpu.processes import run, run_tool


def is_alive(process: int) -> bool:
    """Whether it runs: one that nobody waited for has ended too."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("ends", [False, True], ids=["stopped", "ended"])
def test_what_a_program_leaves_behind_is_ended_with_it(tmp_path: Path, ends: bool) -> None:
    child = tmp_path / "child"
    program = (
        "import subprocess, sys, time; "
        "at = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        f"open({str(child)!r}, 'w').write(str(at.pid)); {'' if ends else 'time.sleep(60)'}"
    )
    done = run([sys.executable, "-c", program], 60.0 if ends else 2.0)
    assert done.status == (0 if ends else None)
    assert done.seconds < 30
    time.sleep(0.2)
    assert not is_alive(int(child.read_text()))


def test_a_section_that_is_stopped_ends_its_tools_first(tmp_path: Path) -> None:
    child = tmp_path / "child"
    tool = f"import os, time; open({str(child)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    program = (
        "from benchmarks.gpu.processes import end_with_programs, run_tool; import sys; "
        f"end_with_programs(); run_tool([sys.executable, '-c', {tool!r}], 60.0)"
    )
    assert run([sys.executable, "-c", program], 3.0, cwd=ROOT).status is None
    assert not is_alive(int(child.read_text()))


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("print('fine')", "ok"),
        ("raise SystemExit(3)", "failed"),
        ("print('==ERROR== ERR_NVGPUCTRPERM'); raise SystemExit(1)", "not available here"),
        ("import time; print('a test', flush=True); time.sleep(30)", "not reached"),
    ],
)
def test_tools_that_work_fail_are_refused_or_take_too_long(code: str, outcome: str) -> None:
    seconds = 1.0 if outcome == "not reached" else 60.0
    row = run_tool([sys.executable, "-c", code], seconds)
    assert row["outcome"] == outcome
    assert row.get("ok", True) == (outcome != "failed")
    assert outcome != "not reached" or row["said"].startswith("a test\n")


def test_a_tool_that_is_missing_is_not_available_here() -> None:
    assert run_tool(["no-such-sanitizer"], 1.0)["outcome"] == "not available here"
