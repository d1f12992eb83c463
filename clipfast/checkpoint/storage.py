"""Bytes of a memory-mapped file as tensors: bounds are checked, nothing is copied.

The mapping is private (copy on write), so writing into a tensor never reaches the file, and its pages are the file's
page cache until then.
"""

from __future__ import annotations

import mmap
import stat
from pathlib import Path

import torch

from clipfast.checkpoint.pickle_machine import STORAGE_DTYPES, StorageReference, TensorReference
from clipfast.errors import CheckpointError

_TORCH_DTYPES = {
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Float": torch.float32,
    "Double": torch.float64,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
assert set(_TORCH_DTYPES) == set(STORAGE_DTYPES)


class MappedFile:
    """A regular, non-empty file, mapped for reading.

    Raises: CheckpointError when it is neither, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise CheckpointError(f"{path}: not a regular file")
            with path.open("rb") as file:
                self.buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except ValueError:  # what mmap raises for no bytes at all
            raise CheckpointError(f"{path}: the file is empty") from None
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
        self.size = len(self.buffer)

    def read(self, start: int, stop: int) -> bytes:
        """A copy of the bytes start:stop (fewer at the end of the file)."""
        return self.buffer[start:stop]

    def elements(self, start: int, reference: StorageReference) -> torch.Tensor:
        """The (numel,) elements of a storage whose bytes begin at `start`: a view, or a copy where unaligned."""
        dtype = _TORCH_DTYPES[reference.dtype_name]
        stop = start + reference.numel * dtype.itemsize
        if stop > self.size:
            raise CheckpointError(
                f"{self.path}: truncated: storage {reference.key} ends at byte {stop}, the file at {self.size}"
            )
        if reference.numel == 0:
            return torch.empty(0, dtype=dtype)
        elements = torch.frombuffer(self.buffer, dtype=dtype, count=reference.numel, offset=start)
        return elements.clone() if start % dtype.itemsize else elements


def storage_bytes(reference: StorageReference) -> int:
    """The size that a storage must have in the file."""
    return reference.numel * _TORCH_DTYPES[reference.dtype_name].itemsize


def strided_view(
    elements: torch.Tensor, reference: TensorReference, name: str, path: Path
) -> torch.Tensor:
    """The tensor that a reference describes, as a view of its storage's elements.

    Raises: CheckpointError when its last element lies outside the storage, or when it has more elements than
        the storage (an expanded view, which would let a small file ask for any amount of memory).
    """
    count, last = 1, reference.offset
    for size, stride in zip(reference.size, reference.stride, strict=True):
        count *= size
        last += max(size - 1, 0) * stride
    if count and (last >= elements.numel() or count > elements.numel()):
        raise CheckpointError(
            f"{path}: tensor {name!r} of shape {reference.size} and strides {reference.stride} does not fit its "
            f"storage of {elements.numel()} elements"
        )
    if count == 0:
        return elements.new_empty(reference.size)
    return elements.as_strided(reference.size, reference.stride, reference.offset)
