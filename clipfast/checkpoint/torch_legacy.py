"""Reads what torch.save wrote before torch 1.6 (five pickles, then raw storages), without running anything from it.

The pickles are: a magic number, the protocol version, facts about the machine, the object, and the list of storage
keys. Then each storage follows in that order: its element count (int64, little endian) and its bytes.

Source: torch/serialization.py, `_legacy_save` (BSD-3-Clause), for the format.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import torch

from clipfast.checkpoint.pickle_machine import (
    MAX_PICKLE_BYTES,
    PickleRefusedError,
    StorageReference,
    run_pickle,
)
from clipfast.checkpoint.state_dict import tensor_references
from clipfast.checkpoint.storage import MappedFile, storage_bytes, strided_view
from clipfast.errors import CheckpointError

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL_VERSION = 1001


def read_torch_legacy(path: Path) -> dict[str, torch.Tensor]:
    """Named tensors of a pre-1.6 torch file, as memory-mapped views.

    Raises: CheckpointError for files that are truncated, unsafe, or pickles of something else.
    """
    file = MappedFile(path)
    stream = io.BytesIO(file.read(0, MAX_PICKLE_BYTES))
    try:
        if run_pickle(stream).value != _MAGIC_NUMBER:
            raise PickleRefusedError("a pickle that torch.save did not write")
        if run_pickle(stream).value != _PROTOCOL_VERSION:
            raise PickleRefusedError("a torch.save protocol that is not known")
        machine = run_pickle(stream).value
        if type(machine) is not dict or machine.get("little_endian") is not True:
            raise PickleRefusedError("written on a big-endian machine, which is not supported")
        content = run_pickle(stream)
        references = tensor_references(content.value)
        keys = run_pickle(stream).value
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    storages = _storages(file, stream.tell(), keys, content.storages)
    return {
        name: strided_view(storages[reference.storage.key], reference, name, path)
        for name, reference in references.items()
    }


def _storages(
    file: MappedFile, position: int, keys: Any, described: dict[str, StorageReference]
) -> dict[str, torch.Tensor]:
    """The elements of every storage, which follow one another in the order of `keys`."""
    if type(keys) is not list or any(type(key) is not str for key in keys):
        raise CheckpointError(f"{file.path}: its list of storages is malformed")
    if set(keys) != described.keys():
        raise CheckpointError(f"{file.path}: its list of storages does not match its tensors")
    storages: dict[str, torch.Tensor] = {}
    for key in keys:
        header = file.read(position, position + 8)
        if len(header) < 8 or struct.unpack("<q", header)[0] != described[key].numel:
            raise CheckpointError(
                f"{file.path}: truncated, or storage {key} has another size than its tensors"
            )
        storages[key] = file.elements(position + 8, described[key])
        position += 8 + storage_bytes(described[key])
    return storages
