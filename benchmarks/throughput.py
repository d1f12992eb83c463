"""The `throughput` fixture's body: ours and one peer in turn, and everything that a result needs to be believed."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from statistics import median
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import peak
from benchmarks.contest import Absent, Contestant
from benchmarks.intervals import paired_ratio
from benchmarks.oracle import accuracy
from benchmarks.peers import OURS, PEERS
from benchmarks.work import Work, flops, gallery_bytes

PAIRS = 20
_TURN_SECONDS = 0.3


class OurSeconds:
    """pytest-benchmark's timer: it advances by the seconds that our worker computed, and by nothing else."""

    def __init__(self) -> None:
        self._total = 0.0

    def __call__(self) -> float:
        return self._total

    def advance(self, seconds: float) -> None:
        self._total += seconds


OUR_SECONDS = OurSeconds()


class Pool:
    """Our worker and the peaks, kept from one cell to the next while they serve it."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[object, Contestant]] = {}

    def ours(self, work: Work) -> Contestant:
        key = replace(work, batch=0)
        kept = self._kept.get("ours")
        if kept is not None and kept[0] == key:
            kept[1].prepare(work)
            return kept[1]
        self._drop("ours")
        return self._keep("ours", key, Contestant(OURS, work))

    def peak(self, work: Work) -> tuple[str, Contestant]:
        """What bounds this work, "compute" or "read", and the contestant that measures it."""
        kind = "read" if gallery_bytes(work) else "compute"
        key = (kind, work.precision, work.threads)
        kept = self._kept.get("peak")
        if kept is not None and kept[0] == key:
            return kind, kept[1]
        self._drop("peak")
        peer, cell = (
            peak.read_peak(work.threads)
            if kind == "read"
            else peak.compute_peak(work.precision, work.threads)
        )
        return kind, self._keep("peak", key, Contestant(peer, cell))

    def close(self) -> None:
        for name in list(self._kept):
            self._drop(name)

    def _keep(self, name: str, key: object, contestant: Contestant) -> Contestant:
        self._kept[name] = (key, contestant)
        return contestant

    def _drop(self, name: str) -> None:
        if name in self._kept:
            self._kept.pop(name)[1].close()


def compete(benchmark: BenchmarkFixture, pool: Pool, work: Work, peer: str, pairs: int) -> None:
    """Measure `pairs` pairs of turns, ours and the peer's, and write what they say into benchmark.extra_info.

    The order within a pair alternates, so that a drift of the machine favours nobody.
    """
    ours = _ours(pool, work)
    kind, ceiling = pool.peak(work)
    with _theirs(peer, work) as theirs:
        peaks = [ceiling.items / ceiling.turn(_TURN_SECONDS)]
        our_times: list[float] = []
        their_times: list[float] = []

        def their_turn() -> None:
            their_times.append(theirs.turn(_TURN_SECONDS) / theirs.items)

        def before() -> None:
            if len(our_times) % 2 == 0:
                their_turn()

        def our_turn() -> None:
            seconds = ours.turn(_TURN_SECONDS)
            OUR_SECONDS.advance(seconds)
            our_times.append(seconds / ours.items)

        def after() -> None:
            if len(our_times) % 2 == 0:
                their_turn()

        benchmark.pedantic(our_turn, setup=before, teardown=after, rounds=pairs)
        peaks.append(ceiling.items / ceiling.turn(_TURN_SECONDS))
        limit = {"bound": kind, "per_second": max(peaks)}
        benchmark.extra_info.update(
            work=_public(work),
            ours=_report(ours, work, our_times, limit),
            peer={"name": peer} | _report(theirs, work, their_times, limit),
            ratio=asdict(paired_ratio(our_times, their_times)),
            peak=limit,
            load_average=round(os.getloadavg()[0], 2),
        )


def _ours(pool: Pool, work: Work) -> Contestant:
    try:
        return pool.ours(work)
    except Absent as reason:
        _, refused, sentence = str(reason).partition("clipfast.errors.UnsupportedError: ")
        if not refused:
            raise
        pytest.skip(f"clipfast: {sentence}")


def _theirs(peer: str, work: Work) -> Contestant:
    try:
        return Contestant(PEERS[peer], work)
    except Absent as reason:
        pytest.skip(f"{peer}: {reason}")


def _report(
    contestant: Contestant, work: Work, times: list[float], limit: dict[str, Any]
) -> dict[str, Any]:
    """times: seconds an item."""
    seconds = median(times)
    total = gallery_bytes(work) if limit["bound"] == "read" else flops(work)
    report: dict[str, Any] = {
        "variant": contestant.variant,
        "tried": contestant.tried,
        "items_per_second": 1 / seconds,
        "peak_rss_mib": contestant.peak_rss_mib(),
        **accuracy(work, contestant.result()),
    }
    if total is not None:
        # The gallery is read once a call whatever the number of queries.
        rate = total / (seconds * work.batch)
        unit = "gb_per_second" if limit["bound"] == "read" else "gflop_per_second"
        report |= {unit: rate / 1e9, "percent_of_peak": 100 * rate / limit["per_second"]}
    return report


def _public(work: Work) -> dict[str, Any]:
    return {name: value for name, value in asdict(work).items() if name != "weights"}
