"""Rows of token ids, whole as the tokenizer made them, to be padded or packed: in C++, or the same in Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from clipfast.inputs.vocabulary import EOT_ID

if TYPE_CHECKING:
    from clipfast import _native

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PackedTexts:
    """Token rows one after another, without padding.

    ids: (T,) int32; sequence b is ids[cu_seqlens[b]:cu_seqlens[b+1]], from start-of-text to its first end-of-text.
    cu_seqlens: (N + 1,) int32.
    """

    ids: Int32
    cu_seqlens: Int32


class TokenRows(Protocol):
    """N rows from start-of-text to end-of-text."""

    def lengths(self) -> Int64:
        """(N,) tokens of each row."""
        ...

    def padded(self, context_length: int) -> Int32:
        """(N, context_length), zeros after each row; a longer row is cut and ends in end-of-text."""
        ...

    def packed(self, context_length: int) -> PackedTexts:
        """The rows of `padded` without zeros and without what follows a row's first end-of-text."""
        ...


class NativeRows:
    """TokenRows in C++ memory."""

    def __init__(self, rows: _native.TokenRows, count: int) -> None:
        self._rows = rows
        self._count = count

    def lengths(self) -> Int64:
        return self._lengths(0)

    def _lengths(self, context_length: int) -> Int64:
        lengths = np.empty(self._count, np.int64)
        self._rows.write_lengths(lengths.ctypes.data, context_length)
        return lengths

    def padded(self, context_length: int) -> Int32:
        ids = np.empty((self._count, context_length), np.int32)
        self._rows.write_padded(context_length, ids.ctypes.data)
        return ids

    def packed(self, context_length: int) -> PackedTexts:
        ids = np.empty(int(self._lengths(context_length).sum()), np.int32)
        cu_seqlens = np.empty(self._count + 1, np.int32)
        self._rows.write_packed(context_length, ids.ctypes.data, cu_seqlens.ctypes.data)
        return PackedTexts(ids, cu_seqlens)


class PythonRows:
    """TokenRows as lists."""

    def __init__(self, rows: Sequence[list[int]]) -> None:
        self._rows = rows

    def lengths(self) -> Int64:
        return np.array([len(row) for row in self._rows], np.int64)

    def _cut(self, context_length: int) -> list[list[int]]:
        return [
            row if len(row) <= context_length else [*row[: context_length - 1], EOT_ID]
            for row in self._rows
        ]

    def padded(self, context_length: int) -> Int32:
        ids = np.zeros((len(self._rows), context_length), np.int32)
        for padded, row in zip(ids, self._cut(context_length), strict=True):
            padded[: len(row)] = row
        return ids

    def packed(self, context_length: int) -> PackedTexts:
        rows = [row[: row.index(EOT_ID) + 1] for row in self._cut(context_length)]
        cu_seqlens = np.zeros(len(rows) + 1, np.int32)
        np.cumsum([len(row) for row in rows], out=cu_seqlens[1:])
        ids = np.fromiter(chain.from_iterable(rows), np.int32, int(cu_seqlens[-1]))
        return PackedTexts(ids, cu_seqlens)
