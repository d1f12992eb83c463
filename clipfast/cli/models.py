"""clipfast models: what loads by name."""

from __future__ import annotations

import argparse

from clipfast.cli.outcome import Exit
from clipfast.cli.output import print_json, print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("filter", nargs="?", default="", help="only names that contain this")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(options: argparse.Namespace) -> int:
    """Print a line a name: family, sizes, activation and the hub repository of its weights."""
    rows = [row for row in _rows() if options.filter.lower() in str(row["name"]).lower()]
    if options.json:
        print_json(rows)
    else:
        headers = ("name", "pixels", "width", "activation", "weights")
        print_table(headers, [[str(row[header]) for header in headers] for row in rows])
    return Exit.OK


def _rows() -> list[dict[str, str | int]]:
    from clipfast.checkpoint.pretrained import available_models, find_release
    from clipfast.config import ARCHITECTURES

    rows: list[dict[str, str | int]] = []
    for name in available_models():
        release = find_release(name)
        if release is None or release.model not in ARCHITECTURES:
            continue
        config = ARCHITECTURES[release.model]
        rows.append(
            {
                "name": name,
                "model": release.model,
                "pixels": config.vision.image_size,
                "width": config.embed_dim,
                "activation": release.activation,
                "weights": release.hub,
            }
        )
    return rows
