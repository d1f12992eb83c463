"""clipfast build-engine: TensorRT engines from exported ONNX towers, for the GPU that is here."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipfast.cli.export import batch_range
from clipfast.cli.outcome import Exit, require
from clipfast.cli.output import print_json, print_table
from clipfast.errors import ConfigurationError

if TYPE_CHECKING:
    from clipfast.export.tensorrt import EngineReport

_UNITS = {
    "": 1,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="written by clipfast export")
    parser.add_argument("--workspace", type=byte_count, metavar="SIZE", help="e.g. 4GiB")
    parser.add_argument("--opt-level", type=int, default=3, choices=range(6), metavar="0..5")
    parser.add_argument("--timing-cache", type=Path, metavar="FILE", help="read and written again")
    parser.add_argument("--hardware-compat", choices=("none", "same-cc", "ampere+"), default="none")
    parser.add_argument("--version-compat", action="store_true", help="for later TensorRT as well")
    parser.add_argument("--strip-weights", action="store_true", help="read them from the ONNX file")
    parser.add_argument(
        "--profiles",
        type=profiles,
        default=(),
        metavar="MIN:OPT:MAX,...",
        help="batch ranges to optimise for (default: the export's)",
    )
    parser.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run each engine and compare it with its graph (default)",
    )
    parser.add_argument("--calibration", type=Path, metavar="DIR", help="verify with these")
    parser.add_argument("--device", type=int, default=0, metavar="N", help="GPU index")
    parser.add_argument("--force", action="store_true", help="replace engines that are there")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(options: argparse.Namespace) -> int:
    """Build an engine for each tower. MISSING without TensorRT or a GPU, BUILD_FAILED, PARITY_FAILED."""
    require("onnx", extra="export", purpose="build-engine")
    from clipfast.export.tensorrt import BuildSettings, build_engine

    files = [options.directory / f"{tower}.onnx" for tower in ("image", "text")]
    files = [file for file in files if file.is_file()]
    if not files:
        raise ConfigurationError(
            f"{options.directory}: holds neither image.onnx nor text.onnx; make them with clipfast export"
        )
    settings = BuildSettings(
        profiles=options.profiles,
        workspace=options.workspace,
        optimization_level=options.opt_level,
        hardware_compatibility=options.hardware_compat,
        version_compatible=options.version_compat,
        strip_weights=options.strip_weights,
    )
    reports = [
        build_engine(
            file,
            settings=settings,
            timing_cache=options.timing_cache,
            verify=options.verify,
            calibration=options.calibration,
            device=options.device,
            force=options.force,
        )
        for file in files
    ]
    if options.json:
        print_json([report.to_dict() for report in reports])
    else:
        _print(reports)
    return Exit.OK


def _print(reports: Sequence[EngineReport]) -> None:
    rows = [
        [
            report.engine,
            f"{report.bytes / 1e6:.1f}",
            report.tensorrt_version,
            report.device or "none",
            "not run" if report.parity is None else f"{report.parity.cosine_min:.7f}",
            f"{report.seconds:.1f}",
        ]
        for report in reports
    ]
    print_table(("engine", "MB", "TensorRT", "GPU", "cosine", "seconds"), rows)


def byte_count(text: str) -> int:
    """An argparse type: "512MiB", "4GiB", or bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if match is None or match[2] not in _UNITS:
        raise argparse.ArgumentTypeError(f"expected a size such as 4GiB, got {text}")
    return int(float(match[1]) * _UNITS[match[2]])


def profiles(text: str) -> tuple[tuple[int, int, int], ...]:
    """An argparse type: "1:8:32,32:128:256"."""
    return tuple(batch_range(part) for part in text.split(","))
