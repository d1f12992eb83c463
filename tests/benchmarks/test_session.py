"""The suite as `make` runs it, on one cheap cell."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from benchmarks.cells import cells
from benchmarks.machine import machine_info, machine_name
from benchmarks.work import Task

ROOT = Path(__file__).parents[2]


def session(*options):
    command = [sys.executable, "-m", "pytest", "-q", "benchmarks/test_similarity.py", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_save_then_check(tmp_path):
    cell = ("-k", "test_similarity and 1000-fp32-1-torch", "--bench-pairs", "2", "--bench-results")
    missing = session(*cell, str(tmp_path), "--bench-check")
    assert missing.returncode == pytest.ExitCode.USAGE_ERROR
    assert "run make bench first" in missing.stderr

    saved = session(*cell, str(tmp_path), "--bench-save")
    assert saved.returncode == 0, saved.stdout
    file = tmp_path / f"{machine_name()}.json"
    text = file.read_text()
    assert os.uname().nodename not in text
    assert str(ROOT) not in text
    document = json.loads(text)
    (measured,) = document["benchmarks"]
    info = measured["extra_info"]
    assert info["ratio"]["pairs"] == 2
    assert measured["stats"]["median"] == pytest.approx(1 / info["ours"]["items_per_second"])
    assert document["machine_info"]["affinity"] == len(os.sched_getaffinity(0))
    assert re.fullmatch(r"[0-9a-f]{40}", document["commit_info"]["id"])

    info["ratio"]["median"] *= 1000
    file.write_text(json.dumps(document))
    behind = session(*cell, str(tmp_path), "--bench-check")
    assert behind.returncode == pytest.ExitCode.TESTS_FAILED
    assert "its peer" in behind.stdout
    assert json.loads(file.read_text()) == document  # a check writes nothing


def test_the_machines_name_is_its_hardware():
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", machine_name())
    assert f"{len(os.sched_getaffinity(0))}-cores" in machine_name()
    assert os.uname().nodename not in json.dumps(machine_info())


def test_cells_have_names_of_their_own():
    for task in get_args(Task):
        names = [cell.name for cell in cells(task, threads=2, once=False)]
        assert names
        assert len(set(names)) == len(names)


def test_the_largest_model_at_the_largest_batch_is_given_three_peers_and_pairs():
    slow = [
        c for c in cells("images", threads=2, once=False) if c.name.startswith("ViT-L-14-bf16-32-")
    ]
    assert [(cell.peer, cell.pairs) for cell in slow] == [
        ("openvino", 3),
        ("transformers", 3),
        ("torch_compile", 3),
    ]
