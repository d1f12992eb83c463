"""The module that releases hold: kernels of every architecture, small, built in minutes, and importable anywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.cuda_report import ARCHITECTURES

ROOT = Path(__file__).parents[2]
STRICT = "--Werror=all-warnings -Xcompiler=-Wall,-Wextra,-Werror -Xptxas=--warning-as-error"
MINUTES, MEGABYTES = 10, 60


def build(folder: Path) -> float:
    """Builds the package into a folder with warnings as errors; returns the minutes it took."""
    architectures = ";".join(ARCHITECTURES)
    environment = {
        **os.environ,
        "CLIPFAST_CUDA_ARCHS": architectures,
        "NVCC_APPEND_FLAGS": STRICT,
        "CFLAGS": "-Werror",
    }
    command = [sys.executable, "setup.py", "-q", "build", f"--build-base={folder / 'base'}"]
    started = time.monotonic()
    said = subprocess.run(
        [*command, f"--build-lib={folder / 'lib'}"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stdout + said.stderr
    assert f"CUDA kernels for {architectures}" in said.stderr
    return (time.monotonic() - started) / 60


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_the_module_of_releases(tmp_path):
    minutes = build(tmp_path)
    (module,) = (tmp_path / "lib" / "clipfast").glob("_native*.so")
    megabytes = module.stat().st_size / 1e6
    print(f"{minutes:.1f} minutes, {megabytes:.1f} MB")
    assert minutes < MINUTES
    assert megabytes < MEGABYTES
    path = os.pathsep.join([str(tmp_path / "lib"), str(ROOT)])
    said = subprocess.run(
        [sys.executable, "-P", "-m", "tests.cuda.module_probe"],
        env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    print(json.dumps(found, indent=1))
    assert found["file"] == str(module)
    assert found["architectures"] == ";".join(ARCHITECTURES)
    if not torch.cuda.is_available():
        assert found["device"] == "no CUDA device"
        assert found["reason"] == found["device"]
        assert len(found["refusals"]) == 8
        assert all("CUDA" in sentence for sentence in found["refusals"].values())
