"""Results on stdout: one JSON document, or a table whose columns line up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def print_json(document: Any) -> None:
    """One JSON document, indented, with the characters of its strings as they are."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell; a column whose cells are all numbers is right-aligned."""
    columns = list(zip(headers, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [bool(rows) and all(map(_is_number, column[1:])) for column in columns]
    for line in (headers, *rows):
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ]
        print("  ".join(cells).rstrip())


def _is_number(cell: str) -> bool:
    return cell.removesuffix("%").replace(",", "").replace(".", "", 1).lstrip("-").isdigit()
