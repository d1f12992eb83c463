"""Which rows a text tower computes for a batch of texts: packed, or as the tree of their unique prefixes.

A causal tower pooled at EOT sees of each text only the tokens before it. So texts are packed without padding; texts
that are equal are encoded once; and a prefix that several texts share ("a photo of a") is encoded once.

    plan = plan_texts(tokenizer.pack(texts), max_rows=4096, share_prefixes=None)
    for batch in plan: embeddings[batch.texts] = encode(batch)

Memory: a batch has at most max_rows rows, or one text; planning takes 16 bytes x (longest text) a text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipfast.errors import InputError
from clipfast.inputs.tokenizer import PackedTexts

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

# A row in a tree costs more than a packed row (its keys are gathered), so a tree must save this share of the rows.
# Set from the crossover measured by benchmarks/test_texts.py (test_prefix_tree_crossover).
TREE_SAVES_AT_LEAST = 0.25


@dataclass(frozen=True)
class TextBatch:
    """Rows to compute together, and which texts they answer.

    ids, positions: (T,) int32, one entry a row.
    cu_seqlens: (B + 1,) int32. Text b is the rows cu_seqlens[b]:cu_seqlens[b+1], or with a tree the rows
        key_rows[cu_seqlens[b]:cu_seqlens[b+1]]; run b of the tree is what text b adds.
    texts: (N,) int64 positions in the input that this batch answers; unique: (N,) int64, the b of each of them.
    cu_queries, key_rows: the prefix tree (`ops.PrefixTree`, whose cu_keys is cu_seqlens), or None.
    """

    ids: Int32
    positions: Int32
    cu_seqlens: Int32
    texts: Int64
    unique: Int64
    cu_queries: Int32 | None = None
    key_rows: Int32 | None = None


@dataclass(frozen=True)
class TextPlan:
    """Batches to encode, and what they save: tokens that were given, and rows that are computed."""

    batches: list[TextBatch]
    tokens: int
    rows: int

    def __iter__(self) -> Iterator[TextBatch]:
        return iter(self.batches)


def pack_tokens(ids: Int32, eot_id: int) -> PackedTexts:
    """Padded rows of tokens, each up to its first EOT.

    Args:
        ids: (N, context_length) integers.
        eot_id: the token a row ends with.
    Raises: InputError wrong_shape, or invalid_text for a row that holds no EOT.
    """
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise InputError(
            f"got tokens of shape {ids.shape} and type {ids.dtype}, expected integers (N, context_length)",
            code="wrong_shape",
        )
    is_eot = ids == eot_id
    without = np.flatnonzero(~is_eot.any(axis=1))
    if len(without):
        raise InputError(
            f"the row holds no end-of-text token ({eot_id}), where its embedding is read",
            code="invalid_text",
            index=int(without[0]),
        )
    lengths = is_eot.argmax(axis=1) + 1 if ids.size else np.zeros(0, np.int64)
    inside = np.arange(ids.shape[1]) < lengths[:, None]
    return PackedTexts(ids[inside].astype(np.int32), _offsets(lengths))


def plan_texts(
    packed: PackedTexts,
    *,
    max_rows: int,
    max_texts: int | None = None,
    share_prefixes: bool | None = None,
) -> TextPlan:
    """The batches that encode every text of `packed` with the fewest rows.

    Args:
        packed: the texts' tokens.
        max_rows: rows a batch may have (one text longer than that still makes a batch).
        max_texts: texts a batch may have; no limit when None.
        share_prefixes: True makes a tree, False never does, None makes one when it saves TREE_SAVES_AT_LEAST.
    """
    texts = _SortedTexts(packed)
    if share_prefixes is None:
        share_prefixes = texts.tree_rows <= (1 - TREE_SAVES_AT_LEAST) * texts.packed_rows
    order = np.arange(len(texts.lengths)) if share_prefixes else texts.input_order
    cut = _Cut(max_rows, max_texts or len(order))
    if share_prefixes:
        chunks = cut.chunks(texts.lengths, texts.added)
        batches = [texts.tree_batch(order[start:stop]) for start, stop in chunks]
    else:
        lengths = texts.lengths[order]
        batches = [
            texts.packed_batch(order[start:stop]) for start, stop in cut.chunks(lengths, lengths)
        ]
    return TextPlan(batches, int(packed.cu_seqlens[-1]), sum(len(batch.ids) for batch in batches))


@dataclass(frozen=True)
class _Cut:
    max_rows: int
    max_texts: int

    def chunks(self, whole: Int64, added: Int64) -> Iterator[tuple[int, int]]:
        """Consecutive ranges of texts; the first text of a range adds all its rows: so each has its stem."""
        total = np.concatenate([[0], np.cumsum(added)])
        start = 0
        while start < len(whole):
            room = total[start + 1] + self.max_rows - whole[start]
            stop = int(np.searchsorted(total, room, side="right")) - 1
            stop = min(max(stop, start + 1), start + self.max_texts, len(whole))
            yield start, stop
            start = stop


class _SortedTexts:
    """The unique texts in lexicographic order of their tokens, so that shared prefixes are neighbours."""

    def __init__(self, packed: PackedTexts) -> None:
        lengths = np.diff(packed.cu_seqlens).astype(np.int64)
        width = int(lengths.max(initial=1))
        inside = np.arange(width) < lengths[:, None]
        # Big-endian tokens sort as bytes in the order of their numbers; token + 1 leaves 0 for "ended".
        matrix = np.zeros((len(lengths), width), ">u4")
        matrix[inside] = packed.ids + 1
        keys = matrix.view(f"V{4 * width}").reshape(-1)
        _, first, self.unique_of_text = np.unique(keys, return_index=True, return_inverse=True)
        self.unique_of_text = self.unique_of_text.reshape(-1)
        self.tokens = matrix[first].astype(np.int64) - 1
        self.lengths: Int64 = lengths[first]
        self.input_order: Int64 = np.argsort(first, kind="stable")
        self.added: Int64 = self.lengths - self._shared_with_previous()
        by_unique = np.argsort(self.unique_of_text, kind="stable")
        self._texts_by_unique = by_unique
        self._first_text = np.searchsorted(
            self.unique_of_text[by_unique], np.arange(len(first) + 1)
        )

    @property
    def packed_rows(self) -> int:
        return int(self.lengths.sum())

    @property
    def tree_rows(self) -> int:
        return int(self.added.sum())

    def packed_batch(self, chosen: Int64) -> TextBatch:
        """The chosen unique texts one after another."""
        lengths = self.lengths[chosen]
        inside = self._inside(lengths)
        tokens = self.tokens[chosen][:, : inside.shape[1]]
        positions = np.broadcast_to(np.arange(inside.shape[1]), inside.shape)[inside]
        texts, unique = self._answers(chosen)
        return TextBatch(
            _int32(tokens[inside]), _int32(positions), _offsets(lengths), texts, unique
        )

    def tree_batch(self, chosen: Int64) -> TextBatch:
        """The tree of the chosen unique texts, which are neighbours in the sorted order."""
        lengths, added = self.lengths[chosen], self.added[chosen].copy()
        added[:1] = lengths[:1]
        inside = self._inside(lengths)
        columns = np.arange(inside.shape[1])
        new = inside & (columns >= (lengths - added)[:, None])
        cu_queries = _offsets(added)
        # A text's row at a column is its own when new, else that of the nearest earlier text that made one:
        # rows are numbered in order, so this is a running maximum.
        path = np.where(new, cu_queries[:-1, None] + columns - (lengths - added)[:, None], -1)
        np.maximum.accumulate(path, axis=0, out=path)
        texts, unique = self._answers(chosen)
        return TextBatch(
            ids=_int32(self.tokens[chosen][:, : inside.shape[1]][new]),
            positions=_int32(np.broadcast_to(columns, new.shape)[new]),
            cu_seqlens=_offsets(lengths),
            texts=texts,
            unique=unique,
            cu_queries=cu_queries,
            key_rows=_int32(path[inside]),
        )

    def _shared_with_previous(self) -> Int64:
        """Tokens that each sorted text shares with the one before it."""
        shared = np.zeros(len(self.lengths), np.int64)
        if len(shared) > 1:
            different = self.tokens[1:] != self.tokens[:-1]
            shared[1:] = different.argmax(axis=1)  # unique rows differ somewhere
        return shared

    def _inside(self, lengths: Int64) -> npt.NDArray[np.bool_]:
        inside: npt.NDArray[np.bool_] = np.arange(lengths.max(initial=0)) < lengths[:, None]
        return inside

    def _answers(self, chosen: Int64) -> tuple[Int64, Int64]:
        """The input positions that the chosen unique texts answer, and the place of each one's text among them."""
        counts = self._first_text[chosen + 1] - self._first_text[chosen]
        unique = np.repeat(np.arange(len(chosen)), counts)
        within = np.arange(len(unique)) - np.repeat(np.cumsum(counts) - counts, counts)
        return self._texts_by_unique[self._first_text[chosen][unique] + within], unique


def _offsets(lengths: Int64) -> Int32:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def _int32(values: npt.NDArray[np.int64]) -> Int32:
    return values.astype(np.int32)
