"""One section of `make gpu`, in its own process: each row goes to a file as soon as it is known."""

from __future__ import annotations

import argparse
import json
import time
from importlib import import_module
from pathlib import Path

import torch

from benchmarks.gpu.cell import DeviceLostError
from benchmarks.gpu.context import Context, Row
from benchmarks.gpu.processes import end_with_programs


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status. An error ends it, with a traceback; the rows before it are in the file."""
    parser = argparse.ArgumentParser(description="one section of make gpu")
    parser.add_argument("section")
    parser.add_argument("--rows", type=Path, required=True, help="where rows go, one a line")
    parser.add_argument("--seconds", type=float, required=True, help="that are left")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, without figures")
    options, own = parser.parse_known_args(arguments)
    deadline = time.monotonic() + options.seconds
    end_with_programs()
    # What kernels are compared with must be float32 where it says so.
    torch.backends.cudnn.allow_tf32 = False
    device = torch.device("cpu" if options.rehearse else "cuda")
    context = Context(device, deadline, tuple(own))
    run = import_module(f"benchmarks.gpu.sections.{options.section}").run
    with options.rows.open("a") as file:

        def write(row: Row) -> None:
            print(row["name"], flush=True)
            file.write(json.dumps(row) + "\n")
            file.flush()

        try:
            for row in run(context):
                write(row)
        except DeviceLostError as error:
            write(error.row)
            raise
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
