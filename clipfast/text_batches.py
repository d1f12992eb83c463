"""Tokenized texts to rows: planned into batches, encoded, and laid down at their places; smaller where memory lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from clipfast.encoder import Encoder, to_device
from clipfast.inputs import PackedTexts
from clipfast.inputs.packing import TextBatch, TextPlan, plan_texts
from clipfast.ops import Tensor
from clipfast.placement import Placement
from clipfast.streams import Streams

# Rows (tokens) a batch, by device type: large enough to fill the machine, small enough that a batch's activations stay
# near the cores. Behind a device layer they are computed from what the device is.
TEXT_ROWS = {"cpu": 4096, "cuda": 65536}


@dataclass(frozen=True)
class TextStatistics:
    """What one encode_texts call did: texts, tokens given, rows encoded (fewer when prefixes are shared)."""

    texts: int = 0
    tokens: int = 0
    rows: int = 0


@dataclass(frozen=True)
class TextCall:
    """How one call wants its texts encoded.

    batch_size: most texts a batch. share_prefixes: as `Model.encode_texts`. advance: told how many texts are done, and
    of as many fewer when they are encoded again.
    """

    batch_size: int | None
    normalize: bool
    share_prefixes: bool | None
    advance: Callable[[int], object]


class TextBatches:
    """The texts of one encoder. Several threads may use it."""

    def __init__(
        self,
        encoder: Encoder,
        placement: Placement | None,
        streams: Streams,
        *,
        batch_invariant: bool,
    ) -> None:
        self._encoder = encoder
        self._streams = streams
        self._placement = placement
        self._batch_invariant = batch_invariant

    @property
    def most_rows(self) -> int:
        """Rows a batch."""
        if self._placement is not None:
            return self._placement.most_text_rows
        return TEXT_ROWS.get(self._encoder.device.type, TEXT_ROWS["cpu"])

    def encode(
        self, pieces: Iterable[PackedTexts], call: TextCall, target: torch.device
    ) -> tuple[Tensor, TextStatistics]:
        """Every piece's rows on `target`, in order: (N, E)."""
        rows: list[Tensor] = []
        statistics = TextStatistics()
        for packed in pieces:
            plan, encoded = self._piece(packed, call)
            rows.append(encoded.to(target))
            statistics = TextStatistics(
                statistics.texts + len(rows[-1]),
                statistics.tokens + plan.tokens,
                statistics.rows + plan.rows,
            )
        if not rows:
            return torch.empty(0, self._encoder.config.embed_dim, device=target), statistics
        return rows[0] if len(rows) == 1 else torch.cat(rows), statistics

    def _piece(self, packed: PackedTexts, call: TextCall) -> tuple[TextPlan, Tensor]:
        """The piece's rows; in smaller batches, all of it again, where a batch did not fit the device."""
        if self._placement is None:
            plan = self._plan(packed, call)
            return plan, self._encoded(plan, packed, call, [])
        layer = self._placement.images.layer
        while True:
            plan, done = self._plan(packed, call), list[int]()
            try:
                with layer.active():
                    return plan, self._encoded(plan, packed, call, done)
            except layer.out_of_memory:
                call.advance(-sum(done))
            largest = max(plan, key=lambda batch: len(batch.ids))
            alone = len(largest.cu_seqlens) == 2
            self._placement.text_limit.halve(1 if alone else len(largest.ids))

    def _plan(self, packed: PackedTexts, call: TextCall) -> TextPlan:
        if self._batch_invariant:
            return plan_texts(packed, max_rows=1, share_prefixes=False)
        return plan_texts(
            packed,
            max_rows=self.most_rows,
            max_texts=call.batch_size,
            share_prefixes=call.share_prefixes if self._encoder.shares_prefixes else False,
        )

    def _encoded(
        self, plan: TextPlan, packed: PackedTexts, call: TextCall, done: list[int]
    ) -> Tensor:
        """(texts of the piece, E) on the encoder's device. done: grows by the texts of each batch."""
        device = self._encoder.device
        out: Tensor | None = None

        def rows(batch: TextBatch) -> Tensor:
            return self._batch(batch, call.normalize)

        with self._streams.open(rows) as underway:
            for batch, encoded in underway.all(plan, lambda batch: len(batch.ids)):
                if out is None:
                    out = encoded.new_empty(len(packed.cu_seqlens) - 1, encoded.shape[1])
                places, unique = (
                    to_device(torch.from_numpy(at), device) for at in (batch.texts, batch.unique)
                )
                out[places] = encoded[unique]
                done.append(len(places))
                call.advance(len(places))
        return torch.empty(0, self._encoder.config.embed_dim) if out is None else out

    def _batch(self, batch: TextBatch, normalize: bool) -> Tensor:
        graphs = None if self._placement is None else self._placement.texts
        if graphs is not None and batch.key_rows is None:
            rows = graphs.run(batch.ids, batch.positions, batch.cu_seqlens, normalize)
            if rows is not None:
                return rows
        with torch.inference_mode():
            return finished(self._encoder.encode_texts(batch), normalize)


def finished(encoded: Tensor, normalize: bool) -> Tensor:
    """Ordinary tensors leave the engine: rows of unit length when asked, usable with autograd."""
    rows = F.normalize(encoded, dim=-1) if normalize else encoded
    with torch.inference_mode(False):
        return rows.clone()


def active(placement: Placement | None) -> AbstractContextManager[object]:
    """While it is open, this thread launches on the encoder's device."""
    return nullcontext() if placement is None else placement.images.layer.active()
