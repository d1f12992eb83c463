"""Texts/s of captions: strings to unit rows for us, ready-made ids to unit rows for peers."""

import random
import time
from dataclasses import asdict

import pytest

import clipfast
from benchmarks.intervals import paired_ratio
from benchmarks.throughput import OUR_SECONDS, PAIRS
from benchmarks.work import texts
from clipfast.inputs import load_tokenizer
from clipfast.inputs.packing import plan_texts
from clipfast.text_batches import TEXT_ROWS

pytestmark = pytest.mark.benchmark(timer=OUR_SECONDS)

WORDS = "cat dog fox owl hen elk bee ant emu yak rivers roads woods hills fields lakes yards ponds parks farms dunes"
LENGTH = 30


def test_texts(throughput, cell):
    throughput(cell)


def test_captions(throughput, cell, benchmark):
    throughput(cell)
    count_tokens(benchmark, cell)


def test_prompts(throughput, cell, benchmark):
    throughput(cell)
    count_tokens(benchmark, cell)


def count_tokens(benchmark, cell):
    """What is encoded of what is given: the plan that `encode_texts` makes."""
    packed = load_tokenizer().pack(texts(cell.work.task, cell.work.batch))
    plan = plan_texts(packed, max_rows=TEXT_ROWS["cpu"])
    padded = 77 * cell.work.batch
    assert plan.rows <= plan.tokens <= padded
    counts = {"padded": padded, "given": plan.tokens, "encoded": plan.rows}
    print(f"{cell.name}: {counts}, {padded / plan.rows:.1f}x fewer than padded")
    benchmark.extra_info["tokens"] = counts


@pytest.mark.benchmark(timer=time.perf_counter, group="texts, tree over packed")
@pytest.mark.parametrize("shared", [0, 2, 5, 10, 20])
def test_prefix_tree_crossover(benchmark, weights, shared):
    """How much faster texts are as a tree of their prefixes than packed, by the share of rows that this saves."""
    model = clipfast.load(weights("ViT-B-32") if benchmark.enabled else "demo")
    draw = random.Random(0)
    words = WORDS.split()
    common = draw.choices(words, k=shared)
    prompts = [" ".join(common + draw.choices(words, k=LENGTH - shared)) for _ in range(480)]
    packed_times: list[float] = []

    def encode_packed():
        start = time.perf_counter()
        model.encode_texts(prompts, share_prefixes=False)
        packed_times.append(time.perf_counter() - start)

    pairs = PAIRS if benchmark.enabled else 1
    tree = benchmark.pedantic(
        model.encode_texts,
        args=(prompts,),
        kwargs={"share_prefixes": True},
        setup=encode_packed,
        rounds=pairs,
    )
    statistics = model.last_text_statistics
    packed = model.encode_texts(prompts, share_prefixes=False)
    assert (tree * packed).sum(dim=1).min() > 0.999
    if benchmark.enabled:
        tree_times = benchmark.stats.stats.data
        benchmark.extra_info.update(
            saved=1 - statistics.rows / statistics.tokens,
            tree_over_packed=asdict(paired_ratio(tree_times, packed_times)),
        )
