"""Memory given back to the system once the weights were read. Linux only; elsewhere nothing is done.

Pages of mapped weight files stay in the system's page cache and come back when a tensor is read again; only this
process stops holding them. Memory that was freed is what the allocator would keep for later.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

_MAPS = Path("/proc/self/maps")


def forget_pages(tensors: Iterable[torch.Tensor]) -> None:
    """Drop the resident pages of the files that these tensors are views of.

    Args:
        tensors: never written to: a private page that was changed would lose its change. Those in ordinary memory are
            left alone.
    """
    if not sys.platform.startswith("linux"):
        return
    starts = {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}
    libc = ctypes.CDLL(None, use_errno=True)
    for begin, end in _file_ranges():
        if any(begin <= start < end for start in starts):
            libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)


def forget_freed_memory() -> None:
    """Give the allocator's free pages back: loading leaves a hundred megabytes of them behind."""
    if sys.platform.startswith("linux"):
        trim = getattr(
            ctypes.CDLL(None), "malloc_trim", None
        )  # glibc's; other C libraries keep little
        if trim is not None:
            trim(0)


def _file_ranges() -> list[tuple[int, int]]:
    """Address ranges of this process's private mappings of files, none of them executable."""
    ranges = []
    for line in _MAPS.read_text(encoding="utf-8", errors="replace").splitlines():
        addresses, permissions, _, _, inode = line.split(maxsplit=5)[:5]
        if inode != "0" and "x" not in permissions and permissions.endswith("p"):
            begin, _, end = addresses.partition("-")
            ranges.append((int(begin, 16), int(end, 16)))
    return ranges
