"""Texts padded to 77 tokens, as the reference's tokenizer pads them, on the fastest runtime with static shapes."""

from __future__ import annotations

from benchmarks.peers import Prepared, text_runtimes
from benchmarks.peers.text_runtimes import RUNTIMES, Ids
from benchmarks.work import Work

BATCH = 16  # divides every number of texts that is measured


def requires(work: Work) -> tuple[str, ...]:
    return ("openvino", "transformers")


def variants(work: Work) -> tuple[str, ...]:
    return tuple(RUNTIMES)


def prepare(work: Work, variant: str) -> Prepared:
    return text_runtimes.prepare(work, variant, _cut, static=True)


def _cut(ids: Ids) -> list[Ids]:
    assert len(ids) % BATCH == 0
    return list(ids.reshape(-1, BATCH, ids.shape[1]))
