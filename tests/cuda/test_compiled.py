"""csrc/cuda compiles for every architecture with warnings as errors and passes its gates; every gate can fail."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")


def report(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.cuda_report", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def assert_clean(*architectures: str) -> None:
    said = report("--check", "--archs", *architectures)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "faults: 0" in said.stdout
    print(said.stdout)


@needs_nvcc
def test_every_kernel_passes_on_90a():
    assert_clean("90a")


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["80", "89", "100a", "120a"])
def test_every_kernel_passes_on(architecture):
    assert_clean(architecture)


@needs_nvcc
@pytest.mark.slow
def test_every_gate_sees_its_seeded_fault():
    said = report("--faults")
    assert said.returncode == 0, said.stdout + said.stderr
    assert "NOT SEEN" not in said.stdout
    assert said.stdout.count("\n") == 16


def test_budgets_hold_every_architecture_and_a_reason_for_what_was_loosened():
    budgets = json.loads((ROOT / "benchmarks" / "compiled" / "cuda_budgets.json").read_text())[
        "budgets"
    ]
    assert list(budgets) == ["80", "89", "90a", "100a", "120a"]
    kernels = set(budgets["90a"])
    assert len(kernels) > 50
    for held in budgets.values():
        assert set(held) == kernels
        for figures in held.values():
            assert set(figures) - {"reason"} == {"registers", "shared", "narrow", "parts"}
            assert figures.get("reason", "a reason").strip()
