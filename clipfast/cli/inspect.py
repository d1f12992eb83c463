"""clipfast inspect: what an ONNX file or a TensorRT engine is, without running it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipfast.cli.outcome import Exit, require
from clipfast.cli.output import print_json
from clipfast.errors import CheckpointError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="an .onnx or .engine file")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(options: argparse.Namespace) -> int:
    """Print the file's description."""
    found = describe(options.file)
    if options.json:
        print_json(found)
    else:
        _print(found)
    return Exit.OK


def describe(file: Path) -> dict[str, Any]:
    """JSON-ready. An .onnx file needs the onnx package, a plan nothing.

    Raises:
        CheckpointError: it is missing, or neither.
    """
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file; expected an .onnx or .engine file")
    if file.suffix != ".onnx":
        from clipfast.runtimes.plan import describe_plan

        return describe_plan(file)
    require("onnx", extra="export", purpose="inspect")
    from clipfast.export.inspect import describe_onnx

    return describe_onnx(file)


def _print(found: Mapping[str, Any], indent: str = "") -> None:
    for name, value in found.items():
        if isinstance(value, Mapping):
            print(f"{indent}{name}")
            _print(value, indent + "  ")
        elif isinstance(value, list) and value and not isinstance(value[0], int):
            print(f"{indent}{name}")
            for item in value:
                shown = " ".join(map(str, item.values())) if isinstance(item, Mapping) else item
                print(f"{indent}  {shown}")
        else:
            print(f"{indent}{name}  {value}")
