"""Images in tar archives, in webdataset's layout: members a.jpg, a.txt, a.json make the sample "a".

The headers are indexed once and the members are read where they lie, by many threads at once, never extracted. The
parser knows ustar, pax and GNU headers; links, devices and folders are passed over.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from clipfast.bulk.item import SUFFIXES, Item
from clipfast.bulk.spool import Spool
from clipfast.errors import InputError
from clipfast.inputs import EXACT

TARS = (".tar", ".tar.gz", ".tgz")
_BLOCK = 512
_MAX_EXTENSION = 1 << 20  # bytes of a pax or long-name header
_MAX_TEXT = 1 << 20
_TEXTS = ("txt", "caption")


class Archive:
    """Bytes of one archive at any position, thread-safe. In a compressed one, going back starts from its beginning."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = Path(path).open("rb")  # noqa: SIM115  (closed with the last slice of it)
        self.size: int | None = os.fstat(self._file.fileno()).st_size
        self.compressed = os.pread(self._file.fileno(), 2, 0) == b"\x1f\x8b"
        if self.compressed:
            self._plain = gzip.GzipFile(fileobj=self._file)
            self._lock = threading.Lock()
            self.size = None

    def read_at(self, offset: int, size: int) -> bytes:
        """At most `size` bytes, fewer at the end. Raises: OSError, EOFError (a cut gzip file)."""
        if not self.compressed:
            return os.pread(self._file.fileno(), size, offset)
        with self._lock:
            self._plain.seek(offset)
            return self._plain.read(size)


@dataclass(frozen=True, slots=True)
class Slice:
    """The bytes of one member."""

    archive: Archive
    offset: int
    size: int
    field: str = ""

    def read(self) -> bytes:
        if self.size > EXACT.max_bytes:
            raise InputError(
                f"a member of {self.size} bytes where at most {EXACT.max_bytes} are read",
                code="image_too_large",
            )
        try:
            data = self.archive.read_at(self.offset, self.size)
        except (OSError, EOFError) as error:
            raise InputError(f"{self.archive.path}: {error}", code="unreadable_file") from None
        if len(data) < self.size:
            raise InputError(
                f"{self.archive.path} ends {self.size - len(data)} bytes before this member does",
                code="unreadable_file",
            )
        return _caption_field(data) if self.field else data


def _caption_field(data: bytes) -> bytes:
    try:
        fields = json.loads(data)
        return str(fields["caption"]).encode(errors="surrogatepass")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"its json has no caption: {error!r}", code="invalid_text") from None


class Tars:
    """The samples of some archives, one archive after another."""

    def __init__(self, paths: list[str], scratch: Path) -> None:
        self._paths = paths
        self._spool = Spool(scratch, self._index())
        self.count = self._spool.count
        sizes = [[path, Path(path).stat().st_size] for path in paths]
        whole = json.dumps([sizes, self._spool.digest])
        self.digest = hashlib.sha256(whole.encode()).hexdigest()

    def items(self, start: int, stop: int) -> Iterator[Item]:
        archive: Archive | None = None
        for number, key, image, caption in self._spool.records(start, stop):
            path = self._paths[number]
            if archive is None or archive.path != path:
                archive = Archive(path)
            name = f"{path}/{key}"
            if isinstance(image, str):
                yield Item(name, InputError(image, code="unreadable_file"))
            elif archive.compressed:
                yield _read_now(name, Slice(archive, *image), caption and Slice(archive, *caption))
            else:
                yield Item(name, Slice(archive, *image), caption and Slice(archive, *caption))

    def _index(self) -> Iterator[list[Any]]:
        for number, path in enumerate(self._paths):
            yield from ([number, *sample] for sample in _samples(Archive(path)))


def _read_now(name: str, image: Slice, caption: Slice | None) -> Item:
    """A compressed archive can only be read in order, so the bytes are taken as it is passed."""
    try:
        data: bytes | InputError = image.read()
    except InputError as error:
        data = error
    if caption is None:
        return Item(name, data)
    try:
        return Item(name, data, _Held(caption.read()))
    except InputError as error:
        return Item(name, data, error)


@dataclass(frozen=True, slots=True)
class _Held:
    data: bytes

    def read(self) -> bytes:
        return self.data


# ---- samples -----------------------------------------------------------------------------------------------------


class _Member(NamedTuple):
    name: str
    offset: int
    size: int


# key, [offset, size] of the image or why there is none, [offset, size, field] of the caption or None
_Sample = tuple[str, list[int] | str, list[Any] | None]


def _samples(archive: Archive) -> Iterator[_Sample]:
    """Neighbouring members that share a key are one sample; what has neither image nor caption is passed over."""
    key, fields = "", dict[str, _Member]()
    for member in _members(archive):
        if isinstance(member, str):
            yield from _finish(key, fields)
            key, fields = "", {}
            yield "", member, None
            continue
        folder, slash, base = member.name.rpartition("/")
        stem, dot, extension = base.partition(".")
        if not stem or not dot:
            continue
        field = _field_of(extension)
        if (name := folder + slash + stem) != key or field in fields:
            yield from _finish(key, fields)
            key, fields = name, {}
        if field:
            fields[field] = member
    yield from _finish(key, fields)


def _field_of(extension: str) -> str:
    last = extension.rpartition(".")[2].lower()
    if last in SUFFIXES or last == "img":
        return "image"
    return "text" if last in _TEXTS else last if last == "json" else ""


def _finish(key: str, fields: dict[str, _Member]) -> Iterator[_Sample]:
    image, text = fields.get("image"), fields.get("text")
    caption: list[Any] | None = None
    if text is not None:
        caption = [text.offset, min(text.size, _MAX_TEXT)]
    elif "json" in fields:
        described = fields["json"]
        caption = [described.offset, min(described.size, _MAX_TEXT), "caption"]
    if image is not None:
        yield key, [image.offset, image.size], caption
    elif text is not None:
        yield key, "the sample holds a caption and no image", None


# ---- headers -----------------------------------------------------------------------------------------------------


def _members(archive: Archive) -> Iterator[_Member | str]:
    """Regular files in order; a string is a sentence about where the archive breaks off."""
    offset = 0
    extended: dict[str, str] = {}
    while True:
        try:
            header = archive.read_at(offset, _BLOCK)
        except (OSError, EOFError) as error:
            yield f"{archive.path} cannot be read from byte {offset} on: {error}"
            return
        if not header.strip(b"\0") and len(header) in (0, _BLOCK):
            return
        if len(header) < _BLOCK or not _is_header(header):
            yield f"{archive.path} breaks off: there is no tar header at byte {offset}"
            return
        kind = header[156:157]
        size = _number(header[124:136])
        if kind not in b"xgLK" and "size" in extended:
            size = int(extended["size"])
        body = offset + _BLOCK
        offset = body + -(-size // _BLOCK) * _BLOCK
        if kind in b"xL" and size <= _MAX_EXTENSION:
            extended |= _extension(kind, archive.read_at(body, size))
            continue
        if kind in b"xgLK":
            continue
        name = extended.get("path") or _name(header)
        sparse = kind == b"S" or any(key.startswith("GNU.sparse") for key in extended)
        extended = {}
        if kind in b"0\x007" and not sparse and not name.endswith("/"):
            yield _Member(name, body, size)


def _is_header(block: bytes) -> bool:
    """Whether the checksum fits, and the size is a number."""
    try:
        checksum = sum(block[:148]) + sum(block[156:]) + 8 * ord(" ")
        return _number(block[148:156]) == checksum and _number(block[124:136]) >= 0
    except ValueError:
        return False


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # base 256, for files of 8 GiB and more
        return int.from_bytes(field[1:], "big")
    return int(field.split(b"\0")[0].strip() or b"0", 8)


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0")[0]
    prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return os.fsdecode(prefix + b"/" + name if prefix else name)


def _extension(kind: bytes, data: bytes) -> dict[str, str]:
    if kind == b"L":
        return {"path": os.fsdecode(data.split(b"\0")[0])}
    found: dict[str, str] = {}
    while data:
        length, space, _ = data.partition(b" ")
        if not space or not length.isdigit() or int(length) <= len(length):
            break
        key, _, value = data[len(length) + 1 : int(length) - 1].partition(b"=")
        found[os.fsdecode(key)] = os.fsdecode(value)
        data = data[int(length) :]
    if not found.get("size", "0").isdigit():
        del found["size"]
    return found
