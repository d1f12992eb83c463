"""Every kernel compiles for architectures that are not here and passes its gates; every gate can fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.compiled.triton_cases import cases
from benchmarks.compiled.triton_faults import FAULTS
from clipfast.kernels import (
    attention,
    attention_pool,
    cosines,
    layer_norm,
    linear,
    linear_8bit,
    patch_embed,
)

ROOT = Path(__file__).parents[2]


def report(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.compile_report", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def assert_clean(*architectures: str) -> None:
    said = report("--check", "--archs", *architectures)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "faults: 0" in said.stdout
    print(said.stdout)


def test_every_kernel_passes_on_80_and_90() -> None:
    assert_clean("80", "90")


@pytest.mark.slow
def test_every_kernel_passes_on_89_100_and_120() -> None:
    assert_clean("89", "100", "120")


@pytest.mark.slow
def test_every_gate_sees_its_seeded_fault() -> None:
    said = report("--faults")
    assert said.returncode == 0, said.stdout + said.stderr
    assert "NOT SEEN" not in said.stdout
    assert said.stdout.count("\n") == len(FAULTS)


def test_budgets_hold_every_architecture_and_a_reason_for_what_was_loosened() -> None:
    budgets = json.loads((ROOT / "benchmarks" / "compiled" / "triton_budgets.json").read_text())[
        "budgets"
    ]
    assert sorted(budgets) == ["100", "120", "80", "89", "90"]
    for kernels in budgets.values():
        assert len(kernels) > 50
        for figures in kernels.values():
            assert set(figures) - {"reason"} == {"registers", "shared"}
            assert figures.get("reason", "a reason").strip()


@pytest.mark.parametrize("architecture", [80, 90])
def test_only_patches_of_14_pixels_may_load_less_than_16_bytes(architecture: int) -> None:
    narrow = [name for name, case in cases(architecture).items() if case.narrow]
    assert len(narrow) > 3
    assert all(name.startswith("patch_embed") and "P 14" in name for name in narrow)


@pytest.mark.parametrize(
    "module", [attention, attention_pool, cosines, layer_norm, linear, linear_8bit, patch_embed]
)
def test_headers_declare_products_and_loads(module: object) -> None:
    header = " ".join(str(module.__doc__).split())
    assert "MMA:" in header or "No product" in header
    assert "16-byte" in header or "16 bytes" in header
