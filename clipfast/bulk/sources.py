"""What the words on the command line name: sources of items, in the order they were given."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from clipfast.bulk.files import Files, records_of
from clipfast.bulk.item import Source
from clipfast.bulk.parquet import Rows
from clipfast.bulk.spool import Spool
from clipfast.bulk.tar import TARS, Tars

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
_BRACES = re.compile(r"\{([^{}]*)\}")


def expand_braces(text: str) -> list[str]:
    """`a{00..02}.tar` and `a{x,y}.tar` as a shell expands them; other braces, and names that exist, as they are."""
    if Path(text).exists():
        return [text]
    for found in _BRACES.finditer(text):
        inner = found[1]
        if numbers := _RANGE.fullmatch(inner):
            low, high = int(numbers[1]), int(numbers[2])
            zeros = len(numbers[1]) if numbers[1].startswith("0") else 0
            step = 1 if low <= high else -1
            words = [f"{number:0{zeros}d}" for number in range(low, high + step, step)]
        elif "," in inner:
            words = inner.split(",")
        else:
            continue
        heads = [text[: found.start()] + word + text[found.end() :] for word in words]
        return [path for head in heads for path in expand_braces(head)]
    return [text]


def find_sources(
    inputs: Sequence[str],
    scratch: Path,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
) -> list[Source]:
    """Neighbours of one kind are one source.

    Args:
        inputs: folders, image files, lists (.txt, .lst, .list, .jsonl, or "-" for standard input), tars and parquet
            files; with brace patterns.
        scratch: an existing folder for the lists; remove it when the sources are no longer used.
    Raises:
        OSError: an input does not exist or cannot be read. ConfigurationError: a parquet file has no such column.
    """
    paths = [path for text in inputs for path in expand_braces(text)]
    sources: list[Source] = []
    for kind, group in groupby(paths, _kind):
        alike = list(group)
        if kind == "tar":
            sources.append(Tars(alike, scratch / f"{len(sources)}.jsonl"))
        elif kind == "parquet":
            sources.append(Rows(alike, image_column, caption_column))
        else:
            sources.append(
                Files(Spool(scratch / f"{len(sources)}.jsonl", _records(alike, scratch)))
            )
    return sources


def _kind(path: str) -> str:
    if Path(path).is_dir():
        return "files"
    lower = path.lower()
    return "tar" if lower.endswith(TARS) else "parquet" if lower.endswith(".parquet") else "files"


def _records(paths: list[str], scratch: Path) -> Iterator[Any]:
    for path in paths:
        yield from records_of(path, scratch, lambda: sys.stdin.buffer)
