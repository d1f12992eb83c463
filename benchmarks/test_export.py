"""Our ViT-B/32 export against torch.onnx's export of transformers' model, both in ONNX Runtime on the CPU."""

import os
from dataclasses import asdict

import numpy as np
import pytest

from benchmarks.contest import Contestant
from benchmarks.intervals import paired_ratio
from benchmarks.peers import Peer, clipfast_export
from benchmarks.throughput import OUR_SECONDS, PAIRS
from benchmarks.work import Work

OURS = Peer("benchmarks.peers.clipfast_export", {})
THEIRS = Peer("benchmarks.peers.torch_onnx", {})
_TURN_SECONDS = 0.3


@pytest.mark.benchmark(timer=OUR_SECONDS, group="exported graphs in ONNX Runtime")
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("task", ["images", "texts"])
def test_exported_graph(request, benchmark, weights, task, batch):
    threads = len(os.sched_getaffinity(0))
    if not benchmark.enabled:
        work = Work(task, "fp32", batch, threads, "tiny", weights("tiny"))
        rows = benchmark.pedantic(clipfast_export.prepare(work, "").call)
        assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
        return
    work = Work(task, "fp32", batch, threads, "ViT-B-32", weights("ViT-B-32"))
    our_times, their_times = [], []
    with Contestant(OURS, work) as ours, Contestant(THEIRS, work) as theirs:

        def their_turn():
            their_times.append(theirs.turn(_TURN_SECONDS))

        def our_turn():
            our_times.append(ours.turn(_TURN_SECONDS))
            OUR_SECONDS.advance(our_times[-1])

        rounds = request.config.getoption("--bench-pairs") or PAIRS
        benchmark.pedantic(our_turn, setup=their_turn, rounds=rounds)
        cosines = (ours.result() * theirs.result()).sum(axis=1)
        assert cosines.min() > 0.9999
    ratio = paired_ratio(our_times, their_times)
    benchmark.extra_info.update(
        items_per_second=batch / float(np.median(our_times)),
        peer_items_per_second=batch / float(np.median(their_times)),
        ratio=asdict(ratio),
    )
    print(f"\n{task} batch {batch}: {ratio.median:.3f}x [{ratio.low:.3f}, {ratio.high:.3f}]")
