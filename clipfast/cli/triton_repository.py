"""clipfast triton-repository: an export as a model repository for NVIDIA's Triton Inference Server."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipfast.cli.outcome import Exit, require
from clipfast.cli.output import print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directory", type=Path, metavar="DIR", help="written by clipfast export or build-engine"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="REPO")
    parser.add_argument("--name", default="clip", help="models are NAME_image and NAME_text")
    parser.add_argument(
        "--runtime",
        choices=("auto", "onnxruntime", "tensorrt"),
        default="auto",
        help="auto takes engines where there are any",
    )
    parser.add_argument(
        "--queue-delay", type=int, default=1000, metavar="US", help="microseconds (default 1000)"
    )
    parser.add_argument("--force", action="store_true", help="replace models that are there")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(options: argparse.Namespace) -> int:
    """Write the repository and print its models."""
    require("onnx", extra="export", purpose="triton-repository")
    from clipfast.export.triton_repository import write_triton_repository

    models = write_triton_repository(
        options.directory,
        options.output,
        name=options.name,
        runtime=options.runtime,
        queue_delay_us=options.queue_delay,
        force=options.force,
    )
    if options.json:
        print_json({"repository": str(options.output), "models": [model.name for model in models]})
    else:
        for model in models:
            print(model)
    return Exit.OK
