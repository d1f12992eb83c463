"""One writer per output and shard index.

The kernel's lock on the file decides, so a dead process holds nothing, however it died. What the file says (pid, host)
is for people, and for file systems whose locks other hosts do not see: there a holder counts as alive while it keeps
touching the file.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from clipfast.errors import ClipfastError

logger = logging.getLogger("clipfast")

STALE_AFTER = 600.0  # seconds without a touch after which another host's holder counts as dead
TOUCH_EVERY = 60.0


class Lock:
    """A lock that is held."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._touched = time.monotonic()

    def touch(self) -> None:
        """Call now and then while working: tells other hosts that the holder lives."""
        if time.monotonic() - self._touched > TOUCH_EVERY:
            with suppress(FileNotFoundError):  # somebody cleaned up; the kernel's lock still holds
                os.utime(self._path)
            self._touched = time.monotonic()


@contextmanager
def locked(path: Path) -> Iterator[Lock]:
    """Hold the lock file while the block runs.

    Raises:
        ClipfastError: another process holds it; says which.
    """
    descriptor = _acquire(path)
    try:
        os.ftruncate(descriptor, 0)
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": int(time.time())}
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        yield Lock(path)
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_named(path, descriptor):  # its holder has just removed it: take the new one
                os.close(descriptor)
                continue
            _check_holder(path, descriptor)
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise _in_use(path, holder) from None
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def _is_named(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _check_holder(path: Path, descriptor: int) -> None:
    holder = _holder(descriptor)
    if not holder:
        return
    age = time.time() - os.fstat(descriptor).st_mtime
    if holder.get("host") != socket.gethostname() and age < STALE_AFTER:
        raise _in_use(path, holder)
    logger.warning(
        "took over the lock of process %s on %s, which has ended",
        holder.get("pid"),
        holder.get("host"),
    )


def _holder(descriptor: int) -> dict[str, Any]:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0) or b"{}")
    except ValueError:  # it died while writing
        return {"pid": "unknown", "host": socket.gethostname()}
    return holder if isinstance(holder, dict) else {}


def _in_use(path: Path, holder: dict[str, Any]) -> ClipfastError:
    return ClipfastError(
        f"process {holder.get('pid')} on {holder.get('host')} is writing this output (lock {path}); wait for it, or "
        "give each process its own --shard-index"
    )
