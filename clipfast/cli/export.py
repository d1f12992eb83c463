"""clipfast export: a model as ONNX towers, verified before they are written."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from clipfast.cli.outcome import Exit, require
from clipfast.cli.output import print_json, print_table

if TYPE_CHECKING:
    from clipfast.export.options import ExportReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a name, file or folder, as clipfast.load")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--tower", choices=("image", "text", "both"), default="both")
    parser.add_argument("--dtype", choices=("fp32", "fp16", "bf16", "int8"), default="fp32")
    parser.add_argument(
        "--input",
        choices=("uint8", "float"),
        default="uint8",
        help="uint8 pixels, normalised inside (default), or float ones that are normalised already",
    )
    parser.add_argument(
        "--batch",
        type=batch_range,
        default=(1, 8, 64),
        metavar="MIN:OPT:MAX",
        help="what is verified, and what engines are built for (default 1:8:64)",
    )
    parser.add_argument("--target", choices=("onnxruntime", "tensorrt"), default="onnxruntime")
    parser.add_argument(
        "--layernorm-fp32",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="LayerNorm in float32 where the dtype is smaller",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="images and .txt files to verify with, and to calibrate int8 (default: the demo's)",
    )
    parser.add_argument("--architecture", metavar="A", help="family, where the file does not say")
    parser.add_argument("--activation", choices=("gelu", "quick_gelu"))
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(options: argparse.Namespace) -> int:
    """Export and print what was written; PARITY_FAILED or UNSUPPORTED_OPERATOR write nothing."""
    require("onnx", extra="export", purpose="export")
    from clipfast.checkpoint import load_checkpoint
    from clipfast.export.onnx import export_onnx

    checkpoint = load_checkpoint(
        options.model, architecture=options.architecture, activation=options.activation
    )
    report = export_onnx(
        checkpoint,
        options.output,
        tower=options.tower,
        dtype=options.dtype,
        input=options.input,
        batch=options.batch,
        target=options.target,
        layer_norm_fp32=options.layernorm_fp32,
        calibration=options.calibration,
        force=options.force,
    )
    if options.json:
        print_json(report.to_dict())
    else:
        _print(report)
    return Exit.OK


def _print(report: ExportReport) -> None:
    rows = [
        [
            tower.files[0],
            f"{tower.bytes / 1e6:.1f}",
            str(tower.nodes),
            str(tower.opset),
            f"{tower.parity.cosine_min:.7f}",
            f"{tower.parity.centred:.5f}",
            str(tower.parity.gate),
            f"{tower.seconds:.1f}",
        ]
        for tower in report.towers
    ]
    print_table(("file", "MB", "nodes", "opset", "cosine", "centred", "gate", "seconds"), rows)
    first = report.towers[0].parity
    batches = ", ".join(str(entry.batch) for entry in first.batches)
    print(f"{report.directory}: {first.compared}; {first.samples}, batches {batches}")


def batch_range(text: str) -> tuple[int, int, int]:
    """An argparse type: MIN:OPT:MAX, or one size for all three."""
    try:
        sizes = [int(part) for part in text.split(":")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected MIN:OPT:MAX, got {text}") from None
    if len(sizes) == 1:
        sizes *= 3
    if len(sizes) != 3 or not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
        raise argparse.ArgumentTypeError(
            f"expected MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX, got {text}"
        )
    return sizes[0], sizes[1], sizes[2]
