"""Images as files of their own: folders that are searched, lists that name them, and single files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from clipfast.bulk.item import SUFFIXES, Item
from clipfast.bulk.spool import DiskSorter, Spool
from clipfast.errors import InputError

_PATH_FIELDS = ("image_path", "path", "filename")
_CAPTION_FIELDS = ("caption", "text")


class Files:
    """Paths, with captions where a list gives them."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self.count = spool.count
        self.digest = spool.digest

    def items(self, start: int, stop: int) -> Iterator[Item]:
        for record in self._spool.records(start, stop):
            if isinstance(record, str):
                yield Item(record, record)
            elif len(record) == 1:
                yield Item(record[0], InputError(record[0], code="wrong_type"))
            else:
                yield Item(record[0], record[0], record[1])


def image_files(folder: str, scratch: Path) -> Iterator[str]:
    """The image files of a folder, then those of its folders, each in name order.

    Links to folders are not followed, so there are no loops. Hidden names and thumbnails (@eaDir) are left out. A
    folder that cannot be read is given as if it were an image: it fails as an item, so that it is not overlooked.
    """
    stack: list[Iterator[str]] = [iter([folder])]
    while stack:
        folder = next(stack[-1], "")
        if not folder:
            stack.pop()
            continue
        files, folders = DiskSorter(scratch), DiskSorter(scratch)
        try:
            _sort_entries(folder, files, folders)
        except OSError:
            yield folder
            continue
        yield from (os.path.join(folder, name) for name in files)  # noqa: PTH118  (a Path each costs more)
        stack.append(_joined(folder, folders))


def _joined(folder: str, names: Iterable[str]) -> Iterator[str]:
    return (os.path.join(folder, name) for name in names)  # noqa: PTH118


def _sort_entries(folder: str, files: DiskSorter, folders: DiskSorter) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith(".") or name == "@eaDir":
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.add(name)
            elif os.path.splitext(name)[1][1:].lower() in SUFFIXES and not _is_folder(entry):  # noqa: PTH122
                files.add(name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether a name or what it links to is a folder; a link to itself is not, and fails as an item."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def listed_files(lines: IO[bytes]) -> Iterator[str | list[str]]:
    """Records of a list: a path a line, or a JSON object a line with a path and perhaps a caption.

    A record [path] is a line that cannot be used, in words.
    """
    for number, line in enumerate(lines, 1):
        text = os.fsdecode(line).rstrip("\r\n")
        if not text.strip():
            continue
        yield _from_json(text, number) if text.startswith("{") else text


def _from_json(text: str, number: int) -> str | list[str]:
    try:
        fields: dict[str, Any] = json.loads(text)
    except ValueError as error:
        return [f"line {number} is no JSON object: {error}"]
    path = _first(fields, _PATH_FIELDS)
    if path is None:
        return [f"line {number} has none of the fields {', '.join(_PATH_FIELDS)}"]
    caption = _first(fields, _CAPTION_FIELDS)
    return path if caption is None else [path, caption]


def _first(fields: dict[str, Any], names: Iterable[str]) -> str | None:
    return next((fields[name] for name in names if isinstance(fields.get(name), str)), None)


def records_of(path: str, scratch: Path, standard_input: Callable[[], IO[bytes]]) -> Iterator[Any]:
    """What one input that is a folder, a list or an image file holds.

    Raises: OSError when it does not exist or cannot be read.
    """
    if path == "-":
        yield from listed_files(standard_input())
    elif Path(path).is_dir():
        yield from image_files(path, scratch)
    elif path.lower().endswith(LISTS):
        with Path(path).open("rb") as lines:
            yield from listed_files(lines)
    else:
        Path(path).stat()
        yield path


LISTS = (".txt", ".lst", ".list", ".jsonl")
