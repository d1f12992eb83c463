"""The rows of one shard while they arrive, and when all of them have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from clipfast.errors import InputError

Modality = Literal["images", "texts"]
MODALITIES: tuple[Modality, ...] = ("images", "texts")
Rows = npt.NDArray[np.float16]


@dataclass(frozen=True)
class Failure:
    """One bad item. item: its position in the job."""

    item: int
    name: str
    code: str
    message: str


@dataclass(frozen=True)
class Shard:
    """Row k of every array and list belongs to the same item; items that failed are in `failures` only.

    rows: of each modality that was asked for, (n, E) float16 of unit length.
    items: positions in the job, ascending.
    captions: None when no item has one.
    """

    number: int
    rows: Mapping[Modality, Rows]
    items: list[int]
    names: list[str]
    captions: list[str] | None
    failures: list[Failure] = field(default_factory=list)

    @property
    def codes(self) -> dict[str, int]:
        """Failures by code."""
        counts: dict[str, int] = {}
        for failure in self.failures:
            counts[failure.code] = counts.get(failure.code, 0) + 1
        return dict(sorted(counts.items()))


class ShardBuilder:
    """A slot for each item of the shard, filled a batch at a time in any order."""

    def __init__(
        self, number: int, span: range, modalities: Sequence[Modality], width: int
    ) -> None:
        self.number = number
        self.span = span
        self._rows = {kind: np.empty((len(span), width), np.float16) for kind in modalities}
        self._names = [""] * len(span)
        self._captions: list[str | None] = [None] * len(span)
        self._failures: dict[int, InputError] = {}

    def fill(
        self,
        first: int,
        rows: Mapping[Modality, npt.NDArray[Any]],
        names: Sequence[str],
        captions: Sequence[str | None],
        failures: Mapping[int, InputError],
    ) -> None:
        """The slots from `first` on.

        Args:
            rows: (b, E) of each modality.
            failures: by place in the batch; their rows are not used.
        """
        stop = first + len(names)
        for kind, values in rows.items():
            self._rows[kind][first:stop] = values
        self._names[first:stop] = names
        self._captions[first:stop] = captions
        for place in range(len(names)):
            self._failures.pop(first + place, None)
        self._failures.update({first + place: error for place, error in failures.items()})

    def restore(self, earlier: Shard) -> None:
        """The slots as an earlier run left them."""
        places = [item - self.span.start for item in earlier.items]
        for kind, rows in earlier.rows.items():
            self._rows[kind][places] = rows
        for at, place in enumerate(places):
            self._names[place] = earlier.names[at]
            self._captions[place] = earlier.captions[at] if earlier.captions else None
        for failure in earlier.failures:
            place = failure.item - self.span.start
            self._names[place] = failure.name
            self._failures[place] = InputError(failure.message, code=failure.code)  # type: ignore[arg-type]

    def finish(self) -> Shard:
        """The shard, without the slots that failed."""
        kept = [place for place in range(len(self.span)) if place not in self._failures]
        captions = [self._captions[place] for place in kept]
        return Shard(
            self.number,
            {
                kind: rows if len(kept) == len(rows) else rows[kept]
                for kind, rows in self._rows.items()
            },
            [self.span.start + place for place in kept],
            [self._names[place] for place in kept],
            [caption or "" for caption in captions] if any(captions) else None,
            [
                Failure(self.span.start + place, self._names[place], error.code, error.message)
                for place, error in sorted(self._failures.items())
            ],
        )
