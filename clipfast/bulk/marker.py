"""Done-markers: written last, so a shard with a marker is a shard whose files are all on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipfast.bulk.durable import Written, sha256_of, write_text
from clipfast.bulk.layout import Layout


@dataclass(frozen=True)
class Marker:
    """What one shard holds.

    job: digest of the job that made it. start, stop: the items it covers. rows + sum(errors) = stop - start.
    files: bytes and sha256 of each, by its path in the output.
    run: who made it and how long it took; the only part that may differ between runs.
    """

    shard: int
    job: str
    start: int
    stop: int
    rows: int
    errors: dict[str, int]
    files: dict[str, Written]
    run: dict[str, Any]

    def write(self, layout: Layout) -> None:
        fields = vars(self) | {"files": {name: at._asdict() for name, at in self.files.items()}}
        write_text(layout.folder / layout.marker(self.shard), json.dumps(fields, indent=1))

    def damage(self, folder: Path, *, checksums: bool = False) -> str | None:
        """What is wrong with the files, in words, or None. checksums: read them whole."""
        for name, written in self.files.items():
            path = folder / name
            size = path.stat().st_size if path.is_file() else None
            if size != written.bytes:
                return f"{name} has {size} bytes where {written.bytes} were written"
            if checksums and sha256_of(path) != written.sha256:
                return f"{name} is not what was written: its sha256 differs"
        return None


def read_marker(layout: Layout, number: int) -> Marker | None:
    """The shard's marker, or None when it is not done."""
    return _read(layout.folder / layout.marker(number))


def read_markers(folder: Path) -> Iterator[Marker]:
    """Every marker of an output, by shard number."""
    for path in sorted((folder / "done").glob("done_*.json")):
        marker = _read(path)
        if marker is not None:
            yield marker


def _read(path: Path) -> Marker | None:
    try:
        fields = json.loads(path.read_bytes())
        fields["files"] = {name: Written(**at) for name, at in fields["files"].items()}
        return Marker(**fields)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):  # not what we write: as good as none
        return None
