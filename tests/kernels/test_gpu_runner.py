"""The runner of `make gpu`: order, flushing, failures that do not stop it, tools that are refused, no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import build
from benchmarks.gpu.build import build_name, ensure_built
from benchmarks.gpu.context import Context
from benchmarks.gpu.plan import SECTIONS, Choice, Task
from benchmarks.gpu.processes import Finished
from benchmarks.gpu.results import summary
from benchmarks.gpu.runner import run_section, run_tasks
from benchmarks.gpu.sections.parity import side_by_side, tool_options

ROOT = Path(__file__).parents[2]


def context(seconds: float = 60.0) -> Context:
    return Context(torch.device("cpu"), time.monotonic() + seconds)


def section(*rows: dict[str, object], then: str = "") -> list[str]:
    """A section's command: writes these rows where it is told, then does something else."""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    program = f"import os, sys, time; open(sys.argv[2], 'w').write({lines!r}); {then}"
    return [sys.executable, "-c", program]


def in_order(commands: dict[str, list[str]], out: Path, seconds: float = 60.0):
    """The commands as tasks of one weight each: entries, and which there were at each flush."""
    flushed: list[list[str]] = []
    entries = run_tasks(
        [Task(name, 1.0) for name in commands],
        lambda task: commands[task.section],
        out,
        time.monotonic() + seconds,
        lambda so_far: flushed.append(list(so_far)),
    )
    return entries, flushed


def test_sections_run_in_order_and_are_flushed_as_they_end(tmp_path: Path) -> None:
    sections = {
        "first": section({"name": "a", "ms": 1.5}),
        "broken": section({"name": "b"}, then="raise RuntimeError('an illegal memory access')"),
        "killed": section({"name": "c"}, then="os.abort()"),
        "wrong": section({"name": "d", "ok": False}),
        "warned": section(then="print('W: recompile_limit reached', file=sys.stderr)"),
    }
    entries, flushed = in_order(sections, tmp_path)
    assert flushed == [list(sections)[: count + 1] for count in range(5)]
    assert [entry["ok"] for entry in entries.values()] == [True, False, False, False, True]
    assert "illegal memory access" in entries["broken"]["tasks"][0]["said"]
    assert entries["warned"]["tasks"][0]["warned"] == "W: recompile_limit reached"
    assert [row["name"] for row in entries["killed"]["rows"]] == ["c"]
    printed = summary({"sections": entries})
    assert "broken: FAILED" in printed
    assert "RuntimeError: an illegal memory access" in printed
    assert "d: FAILED" in printed
    assert "a: ms 1.5" in printed
    json.dumps(entries)
    assert list(tmp_path.iterdir()) == []


def test_rows_are_flushed_while_a_section_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.gpu.processes._LOOK", 0.2)
    seen: list[list[str]] = []
    run_tasks(
        [Task("slow", 1.0)],
        lambda _: section({"name": "a"}, then="time.sleep(1.5)"),
        tmp_path,
        time.monotonic() + 60,
        lambda entries: seen.append([row["name"] for row in entries["slow"]["rows"]]),
    )
    assert len(seen) > 2
    assert seen[-2] == ["a"]


def test_a_task_is_tried_again_without_what_lost_the_device(tmp_path: Path) -> None:
    lost = {"name": "x batch 1, clipfast fp8", "ok": False, "said": "lost", "lost": "clipfast fp8"}
    tried: list[tuple[str, ...]] = []

    def command(task: Task) -> list[str]:
        assert task.choice is not None
        tried.append(task.choice.without)
        if task.choice.without:
            return section({"name": "x batch 1, clipfast bf16", "ms": 1.0})
        return section(lost, then="raise RuntimeError('CUDA error')")

    task = Task("engine", 1.0, Choice("x", (1,)))
    entries = run_tasks([task], command, tmp_path, time.monotonic() + 60, lambda _: None)
    assert tried == [(), ("clipfast fp8",)]
    assert [row["name"].split(", ")[1] for row in entries["engine"]["rows"]] == [
        "clipfast fp8",
        "clipfast bf16",
    ]
    assert not entries["engine"]["ok"]


def test_what_time_does_not_allow_is_not_reached(tmp_path: Path) -> None:
    entries, _ = in_order({"late": section()}, tmp_path, seconds=-1.0)
    assert entries["late"]["tasks"][0]["said"] == "not reached"
    assert not entries["late"]["ok"]


def test_a_section_past_its_time_is_stopped_and_keeps_whole_rows(tmp_path: Path) -> None:
    cut = "file = open(sys.argv[2], 'a'); file.write('{\\'name'); file.flush(); time.sleep(60)"
    command = [*section({"name": "a"}, then=cut), "--rows", str(tmp_path / "rows")]
    entry = run_section(command, tmp_path / "rows", 1.0, lambda _: None)
    assert entry["rows"] == [{"name": "a"}]
    assert entry["said"] == "stopped after 1 s"
    assert not entry["ok"]


@pytest.mark.parametrize(
    ("capability", "name"), [((8, 0), "80"), ((8, 9), "89"), ((9, 0), "90a"), ((12, 0), "120a")]
)
def test_a_device_is_built_for_by_its_full_name(capability: tuple[int, int], name: str) -> None:
    assert build_name(*capability) == name


@pytest.mark.parametrize(
    ("probe", "built", "outcome", "ok"),
    [
        (Finished(0, "80;90a", 1.0), None, "as found, built for 80;90a", True),
        (Finished(0, "80", 1.0), Finished(0, "", 9.0), "what was found is built for 80", True),
        (
            Finished(1, "No module named x", 1.0),
            Finished(1, "nvcc", 9.0),
            "the build failed",
            False,
        ),
        (Finished(0, "", 1.0), Finished(None, "", 180.0), "stopped after 180 s", False),
    ],
    ids=["found", "other", "fails", "late"],
)
def test_the_module_is_built_only_where_none_fits(
    monkeypatch: pytest.MonkeyPatch, probe: Finished, built: Finished | None, outcome: str, ok: bool
) -> None:
    outcomes = [probe, built]
    monkeypatch.setattr(build, "run", lambda *_, **__: outcomes.pop(0))
    row = ensure_built("90a")
    assert outcome in row["outcome"]
    assert row["ok"] == ok
    assert outcomes == ([None] if built is None else [])


def test_a_rehearsal_has_no_figures() -> None:
    assert context().milliseconds(lambda: None) == {}


def test_tools_see_this_checkout_before_what_was_carried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/carried")
    environment = tool_options(PYTORCH_NO_CUDA_MEMORY_CACHING="1")["env"]
    assert environment["PYTHONPATH"] == f"{ROOT}{os.pathsep}/carried"
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] == "1"


def test_rows_of_jobs_come_as_they_are_known() -> None:
    def job(name: str, seconds: float) -> dict[str, str]:
        time.sleep(seconds)
        return {"name": name}

    jobs = [lambda: job("slow", 0.5), lambda: job("quick", 0.0)]
    rows = side_by_side(jobs, 2)
    assert [next(rows)["name"], next(rows)["name"]] == ["quick", "slow"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured_and_no_file_is_written(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path / "out")]
    said = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert said.returncode == 4
    assert "nothing was measured" in said.stderr
    assert not (tmp_path / "out").exists()


def rehearse(out: Path, *options: str) -> dict:
    command = [sys.executable, "-m", "benchmarks.gpu", "--rehearse", "--out", str(out), *options]
    said = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
    assert [path.name for path in out.iterdir()] == ["gpu.json"]
    return json.loads((out / "gpu.json").read_text())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_rehearsal_runs_every_section_on_the_cpu(tmp_path: Path) -> None:
    whole = rehearse(tmp_path, "--minutes", "40")
    assert whole["rehearsal"]
    assert list(whole["sections"]) == list(SECTIONS)
    rows = [row for entry in whole["sections"].values() for row in entry["rows"]]
    assert len(rows) > 40
    assert not any("ms" in key for row in rows for key in row)
    assert {"tiny batch 2, torch.compile", "tiny 3 captions, torch.compile"} <= {
        row["name"] for row in rows if "cosine" in row
    }


@pytest.mark.slow
def test_a_second_rehearsal_continues_the_first(tmp_path: Path) -> None:
    options = ("--only", "engine", "--minutes", "10", "--no-compile", "--cells")
    rehearse(tmp_path, *options, "tiny:1,2")
    whole = rehearse(tmp_path, *options, "tiny:2,3")
    rows = whole["sections"]["engine"]["rows"]
    ours = {row["name"]: row["run"] for row in rows if row["name"].endswith("clipfast fp16")}
    assert ours == {f"tiny batch {n}, clipfast fp16": run for n, run in ((1, 0), (2, 1), (3, 1))}
    assert len(whole["runs"]) == 2
