"""Real workers in real processes, on the smallest model."""

from __future__ import annotations

import time
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from benchmarks import throughput
from benchmarks.contest import Absent, Contestant
from benchmarks.oracle import accuracy
from benchmarks.peers import OURS, PEERS, Peer, peers_of
from benchmarks.throughput import Pool, compete
from benchmarks.weights import write_weights
from benchmarks.work import Work
from tests.tolerances import BENCHMARK_COSINE

SIMILARITY = Work("similarity", "fp32", 2, 1, gallery=10)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    return lambda model: write_weights(model, folder)


def process_state(contestant):
    status = Path(f"/proc/{contestant._process.pid}/stat").read_text()
    return status.rpartition(")")[2].split()[0]


def test_a_contestant_is_stopped_except_during_its_turn():
    with Contestant(OURS, SIMILARITY) as ours:
        assert process_state(ours) == "T"
        assert 0 < ours.turn(0.05) < 0.05
        assert process_state(ours) == "T"
        assert ours.items == 2
        assert ours.peak_rss_mib() > 50
        pid = ours._process.pid
    assert not Path(f"/proc/{pid}").exists()


def test_a_turn_takes_at_least_the_asked_seconds():
    with Contestant(OURS, SIMILARITY) as ours:
        start = time.perf_counter()
        ours.turn(0.3)
        assert time.perf_counter() - start >= 0.3


def test_what_is_not_installed_says_so(monkeypatch, tmp_path):
    (tmp_path / "nobody.py").write_text("def requires(work): return ['no_such_package']\n")
    monkeypatch.setattr("benchmarks.contest.ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    root = Path(__file__).parents[2]
    (tmp_path / "benchmarks").symlink_to(root / "benchmarks")
    (tmp_path / "tests").symlink_to(root / "tests")
    with pytest.raises(Absent, match=r"^not installed: no_such_package$"):
        Contestant(Peer("nobody", {}), SIMILARITY)


def test_what_fails_says_why():
    with pytest.raises(Absent, match=r"^failed: .*UnsupportedError: precision 'fp8'"):
        Contestant(OURS, Work("images", "fp8", 1, 1, "demo", "demo"))


EVERY = [
    (name, task, precision, "tiny")
    for task in ("images", "texts")
    for precision in ("fp32", "bf16", "int8")
    for name in peers_of(Work(task, precision, 2, 1, "tiny"))
] + [
    (name, "images", precision, "tiny-resnet")
    for precision in ("fp32", "bf16")
    for name in peers_of(Work("images", precision, 2, 1, "tiny-resnet"))
]
QUICK = [("onnxruntime", "images", "fp32", "tiny"), ("transformers", "texts", "bf16", "tiny")]
CASES = QUICK + [pytest.param(*case, marks=pytest.mark.slow) for case in EVERY if case not in QUICK]


@pytest.mark.parametrize(("name", "task", "precision", "model"), CASES)
def test_peers_compute_what_we_compute(name, task, precision, model, weights):
    """Otherwise their speed would mean nothing. The limits are each precision's own rounding."""
    work = Work(task, precision, 2, 1, model, weights(model))
    missing = [p for p in import_module(PEERS[name].module).requires(work) if find_spec(p) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    with Contestant(PEERS[name], work) as theirs:
        cosine = accuracy(work, theirs.result())["cosine"]
        print(f"{name} {task} {precision} {model}: 1 - {1 - cosine:.2g}")
        assert cosine >= BENCHMARK_COSINE[precision]


TEXT_CASES = [
    pytest.param(name, variant, marks=pytest.mark.slow)
    for name in ("padded_texts", "sorted_texts")
    for variant in import_module(PEERS[name].module).variants(Work("captions", "bf16", 0, 1))
]


@pytest.mark.parametrize(("name", "variant"), TEXT_CASES)
def test_every_way_of_padding_computes_what_we_compute(name, variant, weights):
    """In this process, one variant at a time: a contestant keeps the fastest alone."""
    work = Work("captions", "bf16", 32, 1, "tiny", weights("tiny"))
    missing = [p for p in ("openvino", "transformers") if find_spec(p) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    prepared = import_module(PEERS[name].module).prepare(work, variant)
    prepared.call()
    assert prepared.items == 32
    assert accuracy(work, prepared.result())["cosine"] >= BENCHMARK_COSINE["bf16"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["transformers", "open_clip"])
def test_peers_load_what_we_load(name, weights):
    work = Work("model_load", "fp32", 1, 1, "tiny", weights("tiny"))
    with Contestant(PEERS[name], work) as theirs, Contestant(OURS, work) as ours:
        for contestant in (ours, theirs):
            assert accuracy(work, contestant.result())["cosine"] >= BENCHMARK_COSINE["fp32"]
            assert contestant.items == 1


class Rounds:
    """What `compete` needs of pytest-benchmark's fixture."""

    def __init__(self):
        self.extra_info = {}
        self.seconds = []

    def pedantic(self, target, setup, teardown, rounds):
        for _ in range(rounds):
            setup()
            start = throughput.OUR_SECONDS()
            target()
            self.seconds.append(throughput.OUR_SECONDS() - start)
            teardown()


def test_a_competition(monkeypatch):
    turns = []

    class Noting(Contestant):
        def turn(self, seconds):
            spent = super().turn(seconds)
            turns.append((self._peer.module.rpartition(".")[2], spent))
            return spent

    monkeypatch.setattr(throughput, "Contestant", Noting)
    monkeypatch.setattr(throughput, "_TURN_SECONDS", 0.01)
    rounds, pool = Rounds(), Pool()
    compete(rounds, pool, SIMILARITY, "torch", pairs=4)
    pool.close()

    pairs = [name for name, _ in turns if name != "peak"]
    assert pairs == ["torch", "clipfast", "clipfast", "torch"] * 2  # the order alternates
    ours = [spent for name, spent in turns if name == "clipfast"]
    theirs = [spent for name, spent in turns if name == "torch"]
    assert rounds.seconds == pytest.approx(ours)
    info = rounds.extra_info
    ratios = sorted(their / our for our, their in zip(ours, theirs, strict=True))
    assert info["ratio"]["median"] == pytest.approx((ratios[1] + ratios[2]) / 2)
    assert info["ratio"]["pairs"] == 4
    rate = info["ours"]["items_per_second"]
    assert rate == pytest.approx(2 / np.median(ours))
    assert info["ours"]["gflop_per_second"] == pytest.approx(rate * 2 * 10 * 512 / 1e9)
    share = 1e11 * info["ours"]["gflop_per_second"] / info["peak"]["per_second"]
    assert info["ours"]["percent_of_peak"] == pytest.approx(share)
    assert info["peak"]["bound"] == "compute"
    assert max(info[who]["max_abs_error"] for who in ("ours", "peer")) < 1e-5
    assert info["peer"]["name"] == "torch"
    assert "weights" not in info["work"]


def test_our_worker_is_kept_while_only_the_batch_changes():
    pool = Pool()
    first = pool.ours(SIMILARITY)
    assert pool.ours(replace(SIMILARITY, batch=3)) is first
    assert first.items == 3
    second = pool.ours(replace(SIMILARITY, gallery=20))
    assert second is not first
    assert first._process.poll() is not None
    pool.close()
    assert second._process.poll() is not None
