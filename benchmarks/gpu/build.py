"""The native module for this machine's GPU: taken as it is found where it fits, else built once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.gpu.processes import Row, run

ROOT = Path(__file__).parents[2]
SECONDS = 180.0
_PROBE = "import clipfast._native; print(clipfast._native.cuda_architectures)"


def build_name(major: int, minor: int) -> str:
    """What CLIPFAST_CUDA_ARCHS calls a device: from 9.0 on, the name that has its own instructions."""
    return f"{major}{minor}" + ("a" if major >= 9 else "")


def ensure_built(architecture: str) -> Row:
    """Whether there is a native module for the architecture, and what was done for it."""
    found = run([sys.executable, "-c", _PROBE], 60.0, cwd=ROOT)
    last = (found.said.strip().splitlines() or ["nothing"])[-1]
    if found.status == 0 and architecture in last.split(";"):
        return {"name": "native module", "ok": True, "outcome": f"as found, built for {last}"}
    reason = f"what was found is built for {last}" if found.status == 0 else last
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps"]
    command += ["--no-build-isolation", "--editable", "."]
    # A distribution's own Python takes packages only when told so; this machine's is ours to use.
    environment = {
        **os.environ, "CLIPFAST_CUDA_ARCHS": architecture, "PIP_BREAK_SYSTEM_PACKAGES": "1",
    }  # fmt: skip
    done = run(command, SECONDS, cwd=ROOT, env=environment)
    row: Row = {"name": "native module", "ok": done.status == 0, "seconds": done.seconds}
    if done.status == 0:
        return {**row, "outcome": f"built for {architecture}: {reason}"}
    ended = f"stopped after {SECONDS:.0f} s" if done.status is None else "the build failed"
    return {**row, "outcome": f"{ended}; {reason}", "said": done.said[-4000:]}
