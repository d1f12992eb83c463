"""One command for a machine with a GPU: is everything right, and how fast is it?

make gpu OUT=dir [ONLY=section]      under nine minutes, nothing downloaded, results in dir/gpu.json

The system's Python is used as it is; clipfast is built once for the device's architecture. Sections run in order, each
in a process of its own, so that a kernel that brings the device down costs one section; the file is written as each one
ends, and a run cut short keeps what it has. What the machine refuses (a sanitizer, a counter) is "not available here";
what time did not allow is "not reached". Without a GPU nothing is measured and no file is written; --rehearse runs
every section on the CPU on tiny shapes, in Triton's interpreter, and has no figures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.context import Row
from benchmarks.machine import commit_info, machine_info

ROOT = Path(__file__).parents[2]
# Modules of benchmarks.gpu.sections; a kernel's section comes before the towers'.
SECTIONS = ("parity", "cuda_parity", "kernels", "cuda_kernels", "engine", "towers")
MINUTES = 8.5
# Triton, the peers, and what decodes.
PACKAGES = ("triton", "transformers", "timm", "open_clip_torch", "simplejpeg", "torchcodec")
Results = dict[str, dict[str, Any]]


def build_name(major: int, minor: int) -> str:
    """What CLIPFAST_CUDA_ARCHS calls a device: from 9.0 on, the name that has its own instructions."""
    return f"{major}{minor}" + ("a" if major >= 9 else "")


def install(architecture: str) -> Row:
    """Builds clipfast in place for one architecture."""
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps"]
    command += ["--no-build-isolation", "--editable", "."]
    # A distribution's own Python takes packages only when told so; this machine's is ours to use.
    environment = {
        **os.environ, "CLIPFAST_CUDA_ARCHS": architecture, "PIP_BREAK_SYSTEM_PACKAGES": "1",
    }  # fmt: skip
    started = time.monotonic()
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    row: Row = {"name": "pip install", "ok": done.returncode == 0}
    row["seconds"] = round(time.monotonic() - started, 1)
    if done.returncode:
        row["said"] = (done.stdout + done.stderr)[-4000:]
    return row


def run_section(command: list[str], rows: Path, seconds: float) -> dict[str, Any]:
    """A section in a process of its own: the rows that it has written count, however it ends.

    command: writes a row of JSON a line to `rows`. seconds: it is stopped after these.
    """
    entry: dict[str, Any] = {"rows": [], "ok": False, "seconds": 0.0}
    if seconds <= 0:
        return {**entry, "said": "not reached"}
    rows.unlink(missing_ok=True)
    started = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=ROOT, timeout=seconds, stderr=subprocess.PIPE, text=True, check=False
        )
        entry["ok"] = done.returncode == 0
        if done.returncode:
            said = done.stderr.strip() or f"it ended with status {done.returncode}"
            entry["said"] = said[-4000:]
    except subprocess.TimeoutExpired:
        entry["said"] = f"stopped after {seconds:.0f} s"
    entry["seconds"] = round(time.monotonic() - started, 1)
    if rows.exists():
        # A process that was stopped may leave half a line.
        lines = rows.read_text().splitlines(keepends=True)
        entry["rows"] = [json.loads(line) for line in lines if line.endswith("\n")]
        rows.unlink()
    entry["ok"] = entry["ok"] and all(row.get("ok", True) for row in entry["rows"])
    return entry


def run_sections(
    commands: dict[str, list[str]], out: Path, deadline: float, flush: Callable[[Results], None]
) -> Results:
    """Runs the sections in order, flushing after each; what goes wrong in one does not touch the next."""
    results: Results = {}
    for name, command in commands.items():
        print(f"--- {name}", flush=True)
        left = deadline - time.monotonic()
        rows = out / f"{name}.rows"
        results[name] = run_section(
            [*command, "--rows", str(rows), "--seconds", str(left)], rows, left
        )
        flush(results)
    return results


def table(results: Results) -> str:
    """A short table: what failed, and every timed row."""
    lines = []
    for section, entry in results.items():
        lines.append(f"{section}: {'ok' if entry['ok'] else 'FAILED'} in {entry['seconds']} s")
        lines += [f"  {entry['said'].splitlines()[-1]}"] if "said" in entry else []
        for row in entry["rows"]:
            words = [f"{key} {row[key]}" for key in row if key not in ("name", "ok", "said")]
            mark = "" if row.get("ok", True) else "FAILED "
            lines.append(f"  {mark}{row['name']}: {', '.join(words)}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status: 0 when every section ran and held, 1 when one did not, 4 without a GPU."""
    parser = argparse.ArgumentParser(description="parity and speed of the kernels on this GPU")
    parser.add_argument("--out", type=Path, required=True, help="folder of gpu.json")
    parser.add_argument("--only", choices=SECTIONS, help="one section")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, without figures")
    options = parser.parse_args(arguments)
    if not options.rehearse and not torch.cuda.is_available():
        print("no CUDA device is visible to torch: nothing was measured", file=sys.stderr)
        return 4
    if options.rehearse:
        os.environ["TRITON_INTERPRET"] = "1"
    started = time.monotonic()
    header: dict[str, Any] = {"machine": machine_info(), "commit": commit_info()}
    header["rehearsal"] = options.rehearse
    header["versions"] = {"torch": torch.__version__, **_versions()}
    if not options.rehearse:
        capability = torch.cuda.get_device_capability()
        header["device"] = torch.cuda.get_device_name()
        header["cuda"] = torch.version.cuda
        header["install"] = install(build_name(*capability))
    options.out.mkdir(parents=True, exist_ok=True)

    def flush(results: Results) -> None:
        whole = {**header, "seconds": round(time.monotonic() - started, 1), "sections": results}
        (options.out / "gpu.json").write_text(json.dumps(whole, indent=1) + "\n")

    names = [options.only] if options.only else SECTIONS
    command = [sys.executable, "-m", "benchmarks.gpu.section"]
    commands = {
        name: [*command, name, *(["--rehearse"] if options.rehearse else [])] for name in names
    }
    results = run_sections(commands, options.out, started + MINUTES * 60, flush)
    print(table(results))
    built = header.get("install", {}).get("ok", True)
    return 0 if built and all(entry["ok"] for entry in results.values()) else 1


def _versions() -> dict[str, str]:
    """Of what runs beside torch, where it is installed under its own name."""
    found = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
