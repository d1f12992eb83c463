"""Byte-pair encoding of one word in plain Python: what the native encoder is checked against, and its fallback."""

from __future__ import annotations

import heapq
from typing import Final

import regex

from clipfast.inputs.vocabulary import Vocabulary

WORDS: Final = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)
_CACHED_WORDS = 65_536
_CACHED_WORD_BYTES = 64


class WordEncoder:
    """Words to token ids, with a bounded cache: captions repeat their words."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._byte_ids = vocabulary.byte_ids
        self._merges = vocabulary.merges
        self._cache: dict[bytes, tuple[int, ...]] = {}

    def __call__(self, word: bytes) -> tuple[int, ...]:
        """The token ids of one word (UTF-8, not empty)."""
        ids = self._cache.get(word)
        if ids is None:
            ids = self._merge([self._byte_ids[byte] for byte in word])
            if len(word) <= _CACHED_WORD_BYTES:
                if len(self._cache) >= _CACHED_WORDS:
                    self._cache = {}
                self._cache[word] = ids
        return ids

    def _merge(self, ids: list[int]) -> tuple[int, ...]:
        """Apply merges, lowest rank first and left to right, in O(n log n).

        No two merges make the same token and a merge's parts are older than it, so taking pairs from a heap ordered
        by (rank, position) does what merging all occurrences round by round does.
        """
        ids[-1] += 256
        size = len(ids)
        following = list(range(1, size + 1))
        previous = list(range(-1, size - 1))
        heap: list[tuple[int, int, int, int]] = []
        self._push(heap, ids, [*range(size - 1)], following)
        while heap:
            merged, at, left, right = heapq.heappop(heap)
            after = following[at]
            if ids[at] != left or after >= size or ids[after] != right:
                continue
            ids[at], ids[after] = merged, -1
            following[at] = following[after]
            if following[at] < size:
                previous[following[at]] = at
            self._push(
                heap, ids, [position for position in (previous[at], at) if position >= 0], following
            )
        return tuple(token for token in ids if token >= 0)

    def _push(
        self,
        heap: list[tuple[int, int, int, int]],
        ids: list[int],
        positions: list[int],
        following: list[int],
    ) -> None:
        for at in positions:
            if following[at] < len(ids):
                pair = (ids[at], ids[following[at]])
                merged = self._merges.get(pair)
                if merged is not None:
                    heapq.heappush(heap, (merged, at, *pair))
