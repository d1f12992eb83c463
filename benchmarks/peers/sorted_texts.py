"""Texts sorted by length and padded to the longest of their micro-batch, on the fastest runtime with dynamic shapes."""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.peers import Prepared, text_runtimes
from benchmarks.peers.text_runtimes import RUNTIMES, Ids
from benchmarks.work import Work

_BATCHES = (16, 64)


def requires(work: Work) -> tuple[str, ...]:
    return ("openvino", "transformers")


def variants(work: Work) -> tuple[str, ...]:
    return tuple(f"{runtime}, batch {batch}" for runtime in RUNTIMES for batch in _BATCHES)


def prepare(work: Work, variant: str) -> Prepared:
    runtime, _, batch = variant.rpartition(", batch ")
    return text_runtimes.prepare(work, runtime, partial(_cut, batch=int(batch)), static=False)


def _cut(ids: Ids, batch: int) -> list[Ids]:
    lengths = ids.argmax(axis=1) + 1
    order = np.argsort(lengths, kind="stable")
    parts = [order[start : start + batch] for start in range(0, len(order), batch)]
    return [np.ascontiguousarray(ids[part, : lengths[part].max()]) for part in parts]
