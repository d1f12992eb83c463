"""What `embed` wrote, memory-mapped: rows to search, and what each row is."""

from __future__ import annotations

import os
from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from clipfast.bulk.job import NAME, read_job
from clipfast.bulk.layout import Columns, Layout
from clipfast.bulk.marker import read_markers
from clipfast.bulk.shard import Modality, Rows
from clipfast.errors import ClipfastError, ConfigurationError
from clipfast.scoring import top_k

_TABLES_HELD = 4


class Result:
    """A finished output. Rows are numbered through its shards in order; len() counts them.

    images, texts: the shards' arrays, each (n, E) float16 of unit length, memory-mapped; empty lists where the job did
        not ask for them. Pass one to `clipfast.top_k`, or all of them to `top_k` below.
    """

    def __init__(self, folder: Path, layout: Layout, shards: list[int], rows: list[int]) -> None:
        self._layout = layout
        self._shards = shards
        self._ends = list(accumulate(rows))
        self._table = lru_cache(_TABLES_HELD)(self._read_table)
        job = read_job(folder)
        assert job is not None
        self.job = job
        self.images = self._arrays("images")
        self.texts = self._arrays("texts")

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def top_k(
        self, queries: torch.Tensor, k: int, *, modality: Modality = "images"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The k best rows of each query: scores (M, k) float32 cosines, descending; rows (M, k) int64.

        Equals `clipfast.top_k(queries, all rows, k)`; one shard at a time is read.

        Args:
            queries: (M, E), e.g. `model.encode_texts(...)`.
            k: at most len(self).
        Raises: InputError wrong_shape or wrong_type. ConfigurationError: the job has no such rows.
        """
        arrays = self.images if modality == "images" else self.texts
        if not arrays:
            raise ConfigurationError(f"{self._layout.folder} holds no {modality}")
        scores = torch.empty(len(queries), 0)
        rows = torch.empty(len(queries), 0, dtype=torch.int64)
        for number, array in enumerate(arrays):
            found = top_k(queries, array, min(k, len(array)))
            first = self._ends[number] - len(array)
            scores = torch.cat([scores, found[0].cpu()], dim=1)
            rows = torch.cat([rows, found[1].cpu() + first], dim=1)
            best = torch.sort(
                scores, dim=1, descending=True, stable=True
            )  # the lower row first among equals
            scores = best.values[:, :k]
            rows = rows.gather(1, best.indices[:, :k])
        if rows.shape[1] < k:
            raise ConfigurationError(f"k={k}: expected at most {len(self)}, which is all there are")
        return scores, rows

    def metadata(self, row: int) -> dict[str, Any]:
        """What a row is: image_path, caption where there are any, item (its position in the inputs)."""
        if not 0 <= row < len(self):
            raise ConfigurationError(f"row {row}: expected 0 <= row < {len(self)}")
        number = bisect_right(self._ends, row)
        place = row - (self._ends[number - 1] if number else 0)
        return {name: values[place] for name, values in self._table(number).items()}

    def _arrays(self, kind: Modality) -> list[Rows]:
        if kind not in self.job.modalities:
            return []
        return [self._layout.read_rows(kind, number) for number in self._shards]

    def _read_table(self, number: int) -> Columns:
        return self._layout.read_table(self._layout.metadata(self._shards[number]))


def read(output: str | os.PathLike[str], *, partial: bool = False, verify: bool = False) -> Result:
    """The result of `embed`.

    Args:
        partial: take the shards that are done, where missing ones are an error otherwise.
        verify: compare every file's checksum.
    Raises:
        ClipfastError: no such result, unfinished, or damaged.
    """
    folder = Path(output)
    job = read_job(folder)
    if job is None:
        raise ClipfastError(f"{folder} holds no {NAME}; expected the output of clipfast embed")
    markers = [marker for marker in read_markers(folder) if marker.job == job.digest]
    if len(markers) < job.shards and not partial:
        raise ClipfastError(
            f"{folder} has {len(markers)} of {job.shards} shards; run the same command again to finish it, or pass "
            "partial=True"
        )
    for marker in markers:
        if damage := marker.damage(folder, checksums=verify):
            raise ClipfastError(f"{folder}: {damage}; run the same command again to repair it")
    layout = Layout(folder, job.format, job.digits)
    markers = [marker for marker in markers if marker.rows]
    return Result(
        folder, layout, [marker.shard for marker in markers], [marker.rows for marker in markers]
    )
