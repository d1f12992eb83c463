"""A job cut into shards: which items each holds, the same on every machine and in every run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clipfast.bulk.item import Item, Source


@dataclass(frozen=True)
class Plan:
    """Shard k holds the items [k * shard_size, (k + 1) * shard_size) of all sources, one after another."""

    sources: Sequence[Source]
    shard_size: int

    @property
    def count(self) -> int:
        """Items."""
        return sum(source.count for source in self.sources)

    @property
    def shards(self) -> int:
        return -(-self.count // self.shard_size)

    @property
    def digest(self) -> str:
        """Identity of the items and their order."""
        parts = "".join(f"{source.count} {source.digest}\n" for source in self.sources)
        return hashlib.sha256(parts.encode()).hexdigest()

    def span(self, shard: int) -> range:
        """The positions in the job that a shard holds."""
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, self.count))

    def of_worker(self, index: int, workers: int) -> range:
        """The shards of one of several processes."""
        return range(index, self.shards, workers)

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """The items at the positions [start, stop), streamed."""
        first = 0
        for source in self.sources:
            low, high = max(start - first, 0), min(stop - first, source.count)
            if low < high:
                yield from source.items(low, high)
            first += source.count
