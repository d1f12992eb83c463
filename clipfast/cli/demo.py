"""clipfast demo: the demo model on images that it was not trained on."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipfast.cli.outcome import Exit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("demo.png"),
        help="contact sheet (default demo.png)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(options: argparse.Namespace) -> int:
    """Print the report and write the contact sheet."""
    import clipfast
    from clipfast.demo import show

    show.run(clipfast.load("demo"), options.output, as_json=options.json)
    return Exit.OK
