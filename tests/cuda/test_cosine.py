"""Similarity and top-k of the CUDA kernels, run here on a machine that checks every access, against float64."""

from __future__ import annotations

import pytest
import torch

from clipfast.backends import reference
from tests.cuda.host_cosine import similarity, top_k
from tests.cuda.host_library import HostError, address, load
from tests.cuda.parity import assert_parity
from tests.tolerances import CUDA_COSINE

BF16, FP16, INT8 = torch.bfloat16, torch.float16, torch.int8


def rows(count: int, width: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Rows of different lengths, so that a forgotten norm shows; int8 as a gallery is quantised."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, width, generator=generator)
    if dtype == INT8:
        return (values * 127 / values.abs().amax(dim=1, keepdim=True)).round().to(INT8)
    return (values * torch.logspace(-2, 1, max(count, 1))[:count, None]).to(dtype)


def exact_cosines(queries: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
    unit = [x.double() / x.double().norm(dim=1, keepdim=True) for x in (queries, gallery)]
    return unit[0] @ unit[1].T


def check_top_k(queries: torch.Tensor, gallery: torch.Tensor, k: int, **arguments) -> None:
    scores, indices, _ = top_k(queries, gallery, k, **arguments)
    cosines = exact_cosines(queries, gallery)
    # The scores are those of the rows named, the rows are distinct, and none left out is better.
    named = cosines.gather(1, indices)
    error = (scores.double() - named).abs().max().item()
    print(f"error {error:.3g}")
    assert error <= CUDA_COSINE
    assert all(len(set(row)) == k for row in indices.tolist())
    best = cosines.topk(k, dim=1).values
    assert (named.sort(dim=1, descending=True).values - best).abs().max() <= CUDA_COSINE
    falls = scores[:, :-1] > scores[:, 1:]
    ties = (scores[:, :-1] == scores[:, 1:]) & (indices[:, :-1] < indices[:, 1:])
    assert (falls | ties).all()
    again, again_indices, _ = top_k(queries, gallery, k, reversed_warps=True, **arguments)
    assert torch.equal(scores, again)
    assert torch.equal(indices, again_indices)


@pytest.mark.parametrize("gallery_type", [None, INT8], ids=["same", "int8"])
@pytest.mark.parametrize("query_type", [BF16, FP16], ids=["bf16", "fp16"])
def test_top_k_of_each_type(query_type, gallery_type):
    check_top_k(rows(5, 128, query_type), rows(700, 128, gallery_type or query_type, seed=1), 10)


@pytest.mark.parametrize("k", [1, 16, 17, 64, 128])
def test_top_k_of_each_capacity(k):
    check_top_k(rows(3, 64, BF16), rows(300, 64, BF16, seed=1), k)


@pytest.mark.parametrize(
    ("queries", "gallery", "width"),
    [(1, 1, 8), (1, 10, 8), (127, 129, 40), (128, 128, 32), (129, 257, 64), (2, 1000, 512)],
)
def test_top_k_around_the_tiles(queries, gallery, width):
    check_top_k(rows(queries, width, FP16), rows(gallery, width, FP16, seed=1), min(gallery, 7))


def test_every_row_is_better_than_the_one_before():
    """The worst order: a full row is sorted again and again, and its threshold is stale most of the time."""
    angle = torch.linspace(1.5, 0.0, 640)
    gallery = torch.zeros(640, 32)
    gallery[:, 0], gallery[:, 1] = torch.cos(angle), torch.sin(angle)
    queries = torch.zeros(2, 32)
    queries[:, 0] = torch.tensor([1.0, 3.0])
    check_top_k(queries.to(FP16), gallery.to(FP16), 16, multiprocessors=1)


def test_equal_rows_go_to_the_lower_index_across_slices():
    gallery = rows(1, 64, BF16, seed=1).expand(600, 64).contiguous()
    queries = rows(4, 64, BF16)
    scores, indices, slices = top_k(queries, gallery, 20, multiprocessors=2)
    assert slices > 1
    assert indices.tolist() == [list(range(20))] * 4
    assert (scores == scores[:, :1]).all()


def test_result_does_not_depend_on_the_slices_or_the_other_queries():
    queries, gallery = rows(130, 96, BF16), rows(900, 96, BF16, seed=1)
    one, indices, slices = top_k(queries, gallery, 12, multiprocessors=1)
    many, other, more = top_k(queries, gallery, 12, multiprocessors=7)
    assert (slices, more) == (1, 7)
    assert torch.equal(one, many)
    assert torch.equal(indices, other)
    alone, alone_indices, _ = top_k(queries[129:], gallery, 12)
    assert torch.equal(alone, one[129:])
    assert torch.equal(alone_indices, indices[129:])


def test_zero_rows_score_zero_and_nan_rows_come_last():
    gallery = rows(40, 32, BF16, seed=1)
    gallery[3] = 0
    gallery[5, 2] = torch.nan
    query = gallery[7:8].clone()
    scores, indices, _ = top_k(query, gallery, 40)
    assert indices[0, 0] == 7
    assert scores[0, indices[0] == 3] == 0
    assert indices[0, -1] == 5
    assert torch.isnan(scores[0, -1])
    assert torch.isfinite(scores[0, :-1]).all()


def test_strided_rows():
    wide = rows(300, 96, BF16, seed=1)
    check_top_k(rows(3, 64, BF16), wide[:, 32:], 5)


SCALE = 100.0
# What one rounding of a cosine near 1 does to a probability: its derivative p (1 - p) is at most a quarter.
PROBABILITY_ROUNDING = torch.finfo(torch.float32).eps * SCALE / 4


def check_similarity(q: torch.Tensor, g: torch.Tensor, **arguments) -> None:
    out = similarity(q, g, SCALE, **arguments)
    assert torch.equal(out, similarity(q, g, SCALE, reversed_warps=True, **arguments))
    assert (out.sum(dim=1) - 1).abs().max() < CUDA_COSINE
    truth = torch.softmax(SCALE * exact_cosines(q, g), dim=1)
    # An int8 gallery has no plain counterpart of its own type: the same numbers in fp32.
    plain = reference.similarity(q.float(), g.float(), SCALE)
    assert_parity(out, plain, truth, eps=PROBABILITY_ROUNDING)


KINDS = [(BF16, BF16), (FP16, FP16), (BF16, INT8), (FP16, INT8)]
KIND_NAMES = ["bf16", "fp16", "bf16-int8", "fp16-int8"]


@pytest.mark.parametrize(("query_type", "key_type"), KINDS, ids=KIND_NAMES)
@pytest.mark.parametrize(
    ("queries", "keys", "width"), [(1, 1, 16), (3, 1000, 64), (130, 129, 48), (2, 300, 512)]
)
def test_similarity(queries, keys, width, query_type, key_type):
    check_similarity(rows(queries, width, query_type), rows(keys, width, key_type, seed=1))


@pytest.mark.slow
@pytest.mark.parametrize(("query_type", "key_type"), KINDS, ids=KIND_NAMES)
@pytest.mark.parametrize("width", [512, 768, 1024])
def test_256_queries_of_the_published_widths(width, query_type, key_type):
    queries, gallery = rows(256, width, query_type), rows(400, width, key_type, seed=1)
    check_similarity(queries, gallery)
    check_top_k(queries, gallery, 10)


def similarity_of_opposite_rows(**arguments) -> list[list[float]]:
    query = rows(1, 32, BF16)
    return similarity(query, torch.cat([-query, -query]), 200.0, **arguments).tolist()


def test_similarity_of_opposite_rows_does_not_underflow():
    assert similarity_of_opposite_rows() == [[0.5, 0.5]]


def test_similarity_rows_do_not_depend_on_the_other_queries():
    queries, keys = rows(130, 64, BF16), rows(200, 64, BF16, seed=1)
    assert torch.equal(similarity(queries[129:], keys, 50.0), similarity(queries, keys, 50.0)[129:])


def test_keys_order_scores_as_numbers_and_give_them_back():
    scores = torch.tensor([torch.nan, -torch.inf, -2.0, -1e-40, -0.0, 0.0, 1e-40, 1.0, torch.inf])
    indices = torch.tensor([0, 1, 7, 2**31 - 1, 5, 4, 3, 2, 9], dtype=torch.int32)
    keys = torch.zeros(9, dtype=torch.int64)
    back, back_indices = torch.zeros(9), torch.zeros(9, dtype=torch.int32)
    load("cosine").make_keys(
        *(address(scores), address(indices), 9, address(keys)),
        *(address(back), address(back_indices)),
    )
    order = [key % 2**64 for key in keys.tolist()]
    assert order == sorted(order)
    assert torch.equal(back.nan_to_num(nan=5), (scores + 0.0).nan_to_num(nan=5))
    assert torch.equal(back_indices, indices)


@pytest.mark.slow
def test_a_seeded_fault_in_similarity_is_seen():
    """Rows past the gallery's end count as cosines of 0: many times as likely as opposite ones."""
    fault = ("cuda/similarity_loop.h", "if (!exists) logit = -INFINITY;", "")
    assert similarity_of_opposite_rows(changes=(fault,)) != [[0.5, 0.5]]


FAULTS = {
    "ties to the higher index": (
        (
            "cuda/top_k_loop.h",
            "static_cast<uint64_t>(order) << 32 | (0xffffffffu - index)",
            "static_cast<uint64_t>(order) << 32 | (index + 1)",
        ),
        (
            "cuda/top_k_loop.h",
            "0xffffffffu - static_cast<uint32_t>(key)",
            "static_cast<uint32_t>(key) - 1",
        ),
    ),
    "a threshold one place too high": (
        (
            "cuda/top_k_loop.h",
            "if (place == k - 1) m.shared_store",
            "if (place == k - 2) m.shared_store",
        ),
    ),
    "no barrier before the norms are read": (
        (
            "cuda/top_k_loop.h",
            "        m.sync();  // the norms\n",
            "",
        ),
    ),
    "a slice overwritten while it is read": (
        (
            "cuda/product_loop.h",
            "issue(step + kStages - 1);",
            "issue(step + kStages);",
        ),
    ),
}


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(
            name, marks=[] if name == "a threshold one place too high" else pytest.mark.slow
        )
        for name in FAULTS
    ],
)
def test_a_seeded_fault_is_seen(fault):
    gallery = rows(1200, 64, BF16, seed=1)
    gallery[1:200:2] = gallery[:200:2]
    queries = rows(130, 64, BF16)  # two tiles of queries for two blocks: the gallery is one slice
    check_top_k(queries, gallery, 16, multiprocessors=1)
    with pytest.raises((AssertionError, HostError)):
        check_top_k(queries, gallery, 16, multiprocessors=1, changes=FAULTS[fault])
