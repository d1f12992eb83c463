"""How many rows make a batch: sizes whose matrix products fill every multiprocessor, computed, never timed.

A product of (M, K) @ (K, N) is cut into tiles, and the tiles run in waves of one per multiprocessor. A wave that is
half full takes as long as a full one:

    time(M) ~ sum over products of  min over tiles of  waves x tile area x K / speed of the tile

so 64 images of 50 tokens at width 768 run at 78% of what 225 run at on 132 multiprocessors. A batch also reads every
weight once, which takes as long as BALANCE operations a byte.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

# Rows x columns of a tile, and the share of a full-rate tile's speed that it reaches.
TILES = ((128, 256, 1.0), (256, 128, 1.0), (128, 192, 0.97), (128, 128, 0.88), (64, 256, 0.88))
# bf16 operations in the time of one byte from memory: 790e12 / 3.0e12 on an H100.
BALANCE = 263
# A size is as good as the best one when it reaches this share of it ...
_AS_GOOD = 0.99
# ... and when it computes for so many times as long as its weights take to read.
_READS = 10
# A graph may compute so much more than what was asked for, to serve a size that is not its own.
_PADDING = 1.125
# A size is good enough to make a piece of its own when it is this much better than the next larger ones.
_PEAK = 0.002


@dataclass(frozen=True)
class Product:
    """One linear layer over every row: (rows, depth) @ (depth, columns)."""

    columns: int
    depth: int


def time_of(rows: int, products: tuple[Product, ...], multiprocessors: int) -> float:
    """Multiply-adds that a multiprocessor spends on `rows` rows through the products, idle ones counted."""
    return sum(
        min(
            -(-(-(-rows // m) * -(-product.columns // n)) // multiprocessors)
            * (m * n * product.depth / speed)
            for m, n, speed in TILES
        )
        for product in products
    )


def efficiency(rows: int, products: tuple[Product, ...], multiprocessors: int) -> float:
    """The share of the time in which the multiprocessors multiply what was asked for."""
    needed = sum(rows * product.columns * product.depth for product in products)
    return needed / multiprocessors / time_of(rows, products, multiprocessors)


def token_budget(products: tuple[Product, ...], multiprocessors: int, most: int) -> int:
    """Rows of a text batch: at most `most`, in whole tiles, the most efficient; of equals the largest."""
    return max(
        range(max(128, most // 2 // 128 * 128), most + 1, 128),
        key=lambda rows: (round(efficiency(rows, products, multiprocessors), 3), rows),
    )


@dataclass(frozen=True)
class Batching:
    """Sizes of image batches on one device.

    products: of one block; none where the tower is no transformer, then any size is as good as the next.
    rows: tokens of an image. blocks: how often the products run. most: images in a batch.
    """

    products: tuple[Product, ...]
    rows: int
    multiprocessors: int
    most: int

    @cached_property
    def size(self) -> int:
        """Images a batch where the caller does not say: the smallest that is as good as the best."""
        if not self.products:
            return self.most
        best = max(self._efficiency(size) for size in range(1, self.most + 1))
        weights = sum(product.columns * product.depth for product in self.products)
        enough = _READS * weights * 2 * BALANCE / 2 / self.multiprocessors
        sizes = range(1, self.most + 1)
        good = (
            size
            for size in sizes
            if self._efficiency(size) >= _AS_GOOD * best and self._time(size) >= enough
        )
        return next(good, self.most)

    @cached_property
    def buckets(self) -> tuple[int, ...]:
        """Sizes worth a graph of their own, ascending: no batch is padded to more than _PADDING of its time.

        Among them are the powers of two and the peaks, which are asked for most.
        """
        chosen = {1 << bit for bit in range(self.most.bit_length())} | {*self.peaks, self.size}
        smallest = self.most
        for size in range(self.most, 0, -1):
            if size in chosen or self._costs[smallest] > _PADDING * self._costs[size]:
                chosen.add(size)
                smallest = size
        return tuple(sorted(chosen | {self.most}))

    @cached_property
    def peaks(self) -> tuple[int, ...]:
        """Sizes that no smaller one is as efficient as, and after which a wave more begins."""
        if not self.products:
            return (self.most,)
        found: list[int] = []
        record = 0.0
        for size, following in pairwise(range(1, self.most + 2)):
            reached = self._efficiency(size)
            if reached > record + _PEAK and reached > self._efficiency(following):
                found.append(size)
                record = reached
        return tuple(found) or (self.most,)

    def bucket(self, count: int) -> int:
        """The smallest bucket that holds `count` images, count <= most."""
        return self.buckets[bisect_left(self.buckets, count)]

    def pieces(self, count: int, limit: int | None = None) -> list[int]:
        """Sizes to cut `count` images into, each at most `limit`: the least time, weights read once a piece."""
        limit = min(self.most, limit or self.most)
        known = self._cuts.get((count, limit))
        if known is None:
            known = self._cuts[count, limit] = self._cut(count, limit)
        return list(known)

    def _cut(self, count: int, limit: int) -> list[int]:
        """Full pieces of the best size, then the cheapest cut of the last few batches' worth."""
        sizes = sorted({size for size in {*self.peaks, self.size} if size <= limit} | {limit})
        whole = max(sizes, key=lambda size: (self._efficiency(size), size))
        first = max(0, (count - 2 * limit) // whole)
        count -= first * whole
        least: list[tuple[float, int]] = [(0.0, 0)]  # of each count: its time, and its last piece
        for have in range(1, count + 1):
            last = [size for size in sizes if size <= have]
            last += [have] if have < limit else []
            least.append(min((least[have - size][0] + self._costs[size], size) for size in last))
        cut = []
        while count:
            cut.append(least[count][1])
            count -= cut[-1]
        return [whole] * first + sorted(cut, reverse=True)

    @cached_property
    def _cuts(self) -> dict[tuple[int, int], list[int]]:
        """What `pieces` found before."""
        return {}

    @cached_property
    def _costs(self) -> list[float]:
        """Of a piece of each size: its products, and its weights once."""
        weights = sum(product.columns * product.depth for product in self.products)
        read = weights * 2 * BALANCE / 2 / self.multiprocessors
        return [0.0] + [self._time(size) + read for size in range(1, self.most + 1)]

    def _time(self, size: int) -> float:
        if not self.products:
            return float(size)
        return time_of(size * self.rows, self.products, self.multiprocessors)

    def _efficiency(self, size: int) -> float:
        if not self.products:
            return 1.0
        return efficiency(size * self.rows, self.products, self.multiprocessors)
