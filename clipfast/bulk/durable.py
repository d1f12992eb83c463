"""Files that exist whole or not at all, through crashes and power cuts."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

TEMPORARY = ".tmp"


class Written(NamedTuple):
    """What went into a file."""

    bytes: int
    sha256: str


class _Hashing:
    """A file to write to, that counts and hashes what passes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._bytes = 0
        self.closed = False

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._file.write(view)
        self._hash.update(view)
        self._bytes += len(view)
        return len(view)

    def tell(self) -> int:
        return self._bytes

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        """Whoever opened the file closes it."""

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def written(self) -> Written:
        return Written(self._bytes, self._hash.hexdigest())


def write_file(path: Path, write: Callable[[Any], object]) -> Written:
    """`write(file)` into a temporary neighbour, on disk before it takes the name `path`.

    Raises:
        OSError: e.g. the disk is full; the temporary file is removed and `path` is what it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}{TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            hashing = _Hashing(file)
            write(hashing)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return hashing.written()


def write_text(path: Path, text: str) -> Written:
    """`write_file` of one UTF-8 string."""
    return write_file(path, lambda file: file.write(text.encode()))


def sync_folder(folder: Path) -> None:
    """Renames and removals in the folder reach the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
