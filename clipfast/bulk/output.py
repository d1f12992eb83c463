"""The folder of a job: its locks, what a killed run left in it, and what is replaced when asked."""

from __future__ import annotations

import fcntl
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipfast.bulk.durable import TEMPORARY
from clipfast.bulk.job import NAME as JOB
from clipfast.bulk.job import Job, read_job
from clipfast.bulk.lock import Lock, locked
from clipfast.bulk.manifest import NAME as MANIFEST
from clipfast.errors import ClipfastError, ConfigurationError

_DATA = ("done", "img_emb", "text_emb", "metadata", "embeddings", "errors")  # markers go first
_NUMBER = re.compile(r"_(\d+)\.")
_OLD = 3600.0  # seconds after which a temporary file that belongs to no shard is nobody's


@contextmanager
def held(folder: Path, index: int, workers: int) -> Iterator[Lock]:
    """The folder exists, is writable, and is this process's to write its shards to, while the block runs.

    Raises:
        OSError: it cannot be made or written. ClipfastError: another process holds it.
    """
    locks = folder / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with locked(locks / f"{index}-of-{workers}.lock") as lock:
        others = [path for path in locks.iterdir() if not path.stem.endswith(f"-of-{workers}")]
        if busy := [path.stem for path in others if _is_held(path)]:
            raise ClipfastError(
                f"{folder} is being written by process {busy[0]}, and this is {index}-of-{workers}; all processes of "
                "a job need the same --num-shards"
            )
        _remove_leftovers(folder, index, workers)
        yield lock


@contextmanager
def scratch(folder: Path, index: int, workers: int) -> Iterator[Path]:
    """A folder for lists, removed at the end."""
    path = folder / "plan" / f"{index}-of-{workers}"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        try:
            path.parent.rmdir()
        except OSError:  # other processes have theirs there
            return


def check_unclaimed(folder: Path) -> None:
    """Without a job.json there must be no embeddings.

    Raises:
        ConfigurationError: there are some; they would mix with ours.
    """
    if read_job(folder) is None:
        for name in _DATA:
            if any(_files(folder / name)):
                raise ConfigurationError(
                    f"{folder / name} holds files that no {JOB} describes; pass --overwrite, or another output"
                )


def replace_job(folder: Path, job: Job, shards: range, index: int, workers: int) -> None:
    """--overwrite: this process's shards count as missing; those of another job, all of them, are removed.

    Raises:
        ClipfastError: another process is writing that other job.
    """
    if _job_or_none(folder) == job:
        for path in _files(folder / "done"):
            if (number := _number(path)) is not None and number in shards:
                path.unlink()
        return
    for path in _files(folder / "locks"):
        if path.name != f"{index}-of-{workers}.lock" and _is_held(path):
            raise ClipfastError(
                f"process {path.stem} is writing to {folder}; stop it before replacing its job"
            )
    for name in _DATA:
        for path in _files(folder / name):
            path.unlink()
    (folder / MANIFEST).unlink(missing_ok=True)
    (folder / JOB).unlink(missing_ok=True)


def _job_or_none(folder: Path) -> Job | None:
    try:
        return read_job(folder)
    except ClipfastError:  # damaged or of another version: replaced all the same
        return None


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []


def _number(path: Path) -> int | None:
    found = _NUMBER.search(path.name)
    return int(found[1]) if found else None


def _is_held(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _remove_leftovers(folder: Path, index: int, workers: int) -> None:
    """Temporary files of killed runs: those of shards that are ours, and old ones."""
    for path in [*_files(folder), *(path for name in _DATA for path in _files(folder / name))]:
        if not path.name.endswith(TEMPORARY):
            continue
        number = _number(path)
        mine = number is not None and number % workers == index
        if mine or time.time() - path.stat().st_mtime > _OLD:
            path.unlink(missing_ok=True)
