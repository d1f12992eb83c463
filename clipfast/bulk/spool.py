"""Lists that may not fit in memory: written once to disk and read in slices, or sorted there."""

from __future__ import annotations

import hashlib
import heapq
import json
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

_STRIDE = 4096  # records between two remembered offsets: 8 bytes of memory for so many
_SORTED_AT_ONCE = 100_000


class Spool:
    """JSON records on disk, a line each. It pickles: whoever sees the file can read it.

    count: records. digest: sha256 of the lines.
    """

    def __init__(self, path: Path, records: Iterable[Any]) -> None:
        self.path = path
        self.count = 0
        self._offsets = array("Q")
        digest = hashlib.sha256()
        with path.open("wb") as file:
            for record in records:
                if self.count % _STRIDE == 0:
                    self._offsets.append(file.tell())
                line = json.dumps(record).encode() + b"\n"
                file.write(line)
                digest.update(line)
                self.count += 1
        self.digest = digest.hexdigest()

    def records(self, start: int, stop: int) -> Iterator[Any]:
        """The records [start, stop)."""
        if start >= stop:
            return
        with self.path.open("rb") as file:
            file.seek(self._offsets[start // _STRIDE])
            yield from map(
                json.loads, islice(file, start % _STRIDE, start % _STRIDE + stop - start)
            )


class DiskSorter:
    """Strings (with surrogates or line breaks too) in sorted order; more than fit go to temporary files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: list[str] = []
        self._runs: list[IO[str]] = []

    def add(self, text: str) -> None:
        self._held.append(text)
        if len(self._held) >= _SORTED_AT_ONCE:
            run = TemporaryFile("w+", dir=self._folder, encoding="ascii")  # noqa: SIM115  (read in __iter__)
            run.writelines(json.dumps(held) + "\n" for held in sorted(self._held))
            self._runs.append(run)
            self._held = []

    def __iter__(self) -> Iterator[str]:
        self._held.sort()
        if not self._runs:
            yield from self._held
            return
        for run in self._runs:
            run.seek(0)
        stored: list[Iterator[str]] = [map(json.loads, run) for run in self._runs]
        yield from heapq.merge(*stored, iter(self._held))
        for run in self._runs:
            with suppress(OSError):
                run.close()
