"""The runner of `make gpu`: order, flushing, failures that do not stop it, tools that are refused, no GPU."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.context import Context, run_tool
from benchmarks.gpu.runner import SECTIONS, build_name, run_section, run_sections, table

ROOT = Path(__file__).parents[2]


def context(seconds: float = 60.0) -> Context:
    return Context(torch.device("cpu"), time.monotonic() + seconds)


def section(*rows: dict[str, object], then: str = "") -> list[str]:
    """A section's command: writes these rows where it is told, then does something else."""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    program = f"import os, sys, time; open(sys.argv[2], 'w').write({lines!r}); {then}"
    return [sys.executable, "-c", program]


def test_sections_run_in_order_and_are_flushed_as_they_end(tmp_path: Path) -> None:
    flushed: list[list[str]] = []
    sections = {
        "first": section({"name": "a", "ms": 1.5}),
        "broken": section({"name": "b"}, then="raise RuntimeError('an illegal memory access')"),
        "killed": section({"name": "c"}, then="os.abort()"),
        "wrong": section({"name": "d", "ok": False}),
        "last": section(),
    }
    deadline = time.monotonic() + 60
    results = run_sections(
        sections, tmp_path, deadline, lambda so_far: flushed.append(list(so_far))
    )
    assert flushed == [list(sections)[: count + 1] for count in range(5)]
    assert [entry["ok"] for entry in results.values()] == [True, False, False, False, True]
    assert "illegal memory access" in results["broken"]["said"]
    assert [row["name"] for row in results["killed"]["rows"]] == ["c"]
    printed = table(results)
    assert "broken: FAILED" in printed
    assert "RuntimeError: an illegal memory access" in printed
    assert "FAILED d" in printed
    assert "a: ms 1.5" in printed
    json.dumps(results)
    assert list(tmp_path.iterdir()) == []


def test_what_time_does_not_allow_is_not_reached(tmp_path: Path) -> None:
    entry = run_sections({"late": section()}, tmp_path, time.monotonic() - 1, lambda _: None)
    assert entry["late"]["said"] == "not reached"
    assert not entry["late"]["ok"]


def test_a_section_past_its_time_is_stopped_and_keeps_whole_rows(tmp_path: Path) -> None:
    cut = "file = open(sys.argv[2], 'a'); file.write('{\\'name'); file.flush(); time.sleep(60)"
    command = [*section({"name": "a"}, then=cut), "--rows", str(tmp_path / "rows")]
    entry = run_section(command, tmp_path / "rows", 1.0)
    assert entry["rows"] == [{"name": "a"}]
    assert entry["said"] == "stopped after 1 s"
    assert not entry["ok"]


@pytest.mark.parametrize(
    ("capability", "name"), [((8, 0), "80"), ((8, 9), "89"), ((9, 0), "90a"), ((12, 0), "120a")]
)
def test_a_device_is_built_for_by_its_full_name(capability: tuple[int, int], name: str) -> None:
    assert build_name(*capability) == name


def test_a_rehearsal_has_no_figures() -> None:
    assert context().milliseconds(lambda: None) == {}


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("print('fine')", "ok"),
        ("raise SystemExit(3)", "failed"),
        ("print('==ERROR== ERR_NVGPUCTRPERM'); raise SystemExit(1)", "not available here"),
        ("import time; time.sleep(30)", "not reached"),
    ],
)
def test_tools_that_work_fail_are_refused_or_take_too_long(code: str, outcome: str) -> None:
    seconds = 1.0 if outcome == "not reached" else 60.0
    row = run_tool([sys.executable, "-c", code], seconds)
    assert row["outcome"] == outcome
    assert row.get("ok", True) == (outcome != "failed")


def test_a_tool_that_is_missing_is_not_available_here() -> None:
    assert run_tool(["no-such-sanitizer"], 1.0)["outcome"] == "not available here"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured_and_no_file_is_written(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path / "out")]
    said = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert said.returncode == 4
    assert "nothing was measured" in said.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_rehearsal_runs_every_section_on_the_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--rehearse", "--out", str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
    whole = json.loads((tmp_path / "gpu.json").read_text())
    assert whole["rehearsal"]
    assert list(whole["sections"]) == list(SECTIONS)
    rows = [row for entry in whole["sections"].values() for row in entry["rows"]]
    assert len(rows) > 15
    assert not any("ms" in key for row in rows for key in row)
