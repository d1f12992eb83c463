"""Reads what torch.save and torch.jit.save write (zip archives), without running anything from the file.

An archive holds `<prefix>/data.pkl`, which describes the tensors, and `<prefix>/data/<key>`, their bytes, stored
without compression. TorchScript archives add `code/`, which is never opened: OpenAI's files are read like any other.

Source: torch/csrc/jit/serialization and torch/serialization.py (BSD-3-Clause) for the format.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import torch

from clipfast.checkpoint.pickle_machine import MAX_PICKLE_BYTES, ModuleObject, run_pickle
from clipfast.checkpoint.state_dict import tensor_references
from clipfast.checkpoint.storage import MappedFile, storage_bytes, strided_view
from clipfast.errors import CheckpointError

_MAX_ENTRIES = 100_000
_LOCAL_HEADER_BYTES = 30


def read_torch_zip(path: Path) -> tuple[dict[str, torch.Tensor], bool]:
    """Named tensors of a torch zip archive, as memory-mapped views, and whether it is a TorchScript archive.

    Raises: CheckpointError for archives that are truncated, corrupt, compressed or unsafe.
    """
    archive = _Archive(path)
    if archive.entry("byteorder") not in (None, b"little"):
        raise CheckpointError(f"{path}: written on a big-endian machine, which is not supported")
    pickle = archive.entry("data.pkl")
    if pickle is None:
        raise CheckpointError(f"{path}: a zip without data.pkl, expected a torch.save archive")
    try:
        root = run_pickle(io.BytesIO(pickle)).value
        references = tensor_references(root)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    storages: dict[str, torch.Tensor] = {}
    tensors = {}
    for name, reference in references.items():
        storage = reference.storage
        if storage.key not in storages:
            start = archive.locate(f"data/{storage.key}", storage_bytes(storage))
            storages[storage.key] = archive.file.elements(start, storage)
        tensors[name] = strided_view(storages[storage.key], reference, name, path)
    return tensors, isinstance(root, ModuleObject)


class _Archive:
    """The entries of one zip file; each is checked before its bytes are used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = MappedFile(path)
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise CheckpointError(f"{path}: truncated, or not a zip archive ({error})") from None
        self.prefix = self._check_names([entry.filename for entry in entries])
        if sum(entry.file_size for entry in entries) > self.file.size:
            raise CheckpointError(f"{path}: its entries are larger than the file (a zip bomb)")
        self.entries = {entry.filename: entry for entry in entries}

    def _check_names(self, names: list[str]) -> str:
        if len(names) > _MAX_ENTRIES:
            raise CheckpointError(
                f"{self.path}: {len(names)} entries, expected at most {_MAX_ENTRIES}"
            )
        if len(set(names)) != len(names):
            raise CheckpointError(f"{self.path}: two entries of the archive share a name")
        for name in names:
            parts = PurePosixPath(name).parts
            if name.startswith("/") or "\\" in name or ".." in parts or len(parts) < 2:
                raise CheckpointError(f"{self.path}: unsafe entry name {name[:200]!r}")
        prefixes = {name.split("/", 1)[0] for name in names}
        if len(prefixes) != 1:
            raise CheckpointError(
                f"{self.path}: a zip of {len(prefixes)} top-level folders, expected a torch.save archive with one"
            )
        return prefixes.pop()

    def entry(self, name: str) -> bytes | None:
        """The bytes of a small entry, or None when there is no such entry."""
        info = self.entries.get(f"{self.prefix}/{name}")
        if info is None:
            return None
        if info.file_size > MAX_PICKLE_BYTES:
            raise CheckpointError(
                f"{self.path}: {name} has {info.file_size} bytes, expected at most {MAX_PICKLE_BYTES}"
            )
        start = self.locate(name, info.file_size)
        return self.file.read(start, start + info.file_size)

    def locate(self, name: str, size: int) -> int:
        """Where the bytes of an entry begin in the file, once its headers, size and checksum hold."""
        info = self.entries.get(f"{self.prefix}/{name}")
        if info is None:
            raise CheckpointError(
                f"{self.path}: the archive has no entry {name}, which its tensors need"
            )
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise CheckpointError(
                f"{self.path}: {name} is compressed or encrypted; torch never writes it so"
            )
        if not info.file_size == info.compress_size == size:
            raise CheckpointError(
                f"{self.path}: {name} has {info.file_size} bytes, its tensors need {size}"
            )
        start = self._data_start(info)
        checksum = zlib.crc32(memoryview(self.file.buffer)[start : start + size])
        if info.CRC not in (0, checksum):  # 0: torch was told to write none
            raise CheckpointError(f"{self.path}: {name} is corrupt (its checksum does not match)")
        return start

    def _data_start(self, info: zipfile.ZipInfo) -> int:
        header = self.file.read(info.header_offset, info.header_offset + _LOCAL_HEADER_BYTES)
        if len(header) == _LOCAL_HEADER_BYTES and header.startswith(b"PK\x03\x04"):
            name_bytes, extra_bytes = struct.unpack_from("<HH", header, 26)
            start = info.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes
            if start + info.file_size <= self.file.size:
                return int(start)
        raise CheckpointError(
            f"{self.path}: truncated: entry {info.filename[:200]!r} is not where it should be"
        )
