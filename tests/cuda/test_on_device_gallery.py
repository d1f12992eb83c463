"""Similarity and top-k of the CUDA kernels against float64, the same bits twice, as in test_on_device.py."""

from __future__ import annotations

import pytest
import torch

from clipfast.backends import reference
from tests.cuda.machine import machine, missing_device
from tests.cuda.parity import assert_parity
from tests.tolerances import CUDA_COSINE

BF16, FP16, INT8 = torch.bfloat16, torch.float16, torch.int8
published = pytest.mark.skipif(missing_device() is not None, reason=str(missing_device()))
here = machine()
# What they show without a GPU, the tests of each loop show too.
pytestmark = pytest.mark.slow


def gallery_rows(count: int, width: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Rows of different lengths, so that a forgotten norm shows; int8 as a gallery is quantised."""
    generator = torch.Generator(here.device).manual_seed(seed)
    values = torch.randn(count, width, generator=generator, device=here.device)
    if dtype == INT8:
        return (values * 127 / values.abs().amax(dim=1, keepdim=True)).round().to(INT8)
    return (values * torch.logspace(-2, 1, max(count, 1), device=here.device)[:count, None]).to(
        dtype
    )


def exact_cosines(queries: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
    unit = [x.double() / x.double().norm(dim=1, keepdim=True) for x in (queries, gallery)]
    return unit[0] @ unit[1].T


def check_top_k(queries: torch.Tensor, gallery: torch.Tensor, k: int) -> None:
    """The scores are those of the rows named, no row left out is better, ties go to the lower index."""
    scores, found = here.top_k(queries, gallery, k)
    again, again_found = here.top_k(queries, gallery, k)
    assert torch.equal(scores, again)
    assert torch.equal(found, again_found)
    for first in range(0, len(queries), 64):
        cosines = exact_cosines(queries[first : first + 64], gallery)
        named = cosines.gather(1, found[first : first + 64])
        assert (scores[first : first + 64].double() - named).abs().max() <= CUDA_COSINE
        best = cosines.topk(k, dim=1).values
        assert (named.sort(dim=1, descending=True).values - best).abs().max() <= CUDA_COSINE
    assert (found.sort(dim=1).values.diff(dim=1) > 0).all()
    ties = (scores[:, :-1] == scores[:, 1:]) & (found[:, :-1] < found[:, 1:])
    assert ((scores[:, :-1] > scores[:, 1:]) | ties).all()


def check_similarity(queries: torch.Tensor, keys: torch.Tensor, scale: float = 100.0) -> None:
    out = here.similarity(queries, keys, scale)
    assert torch.equal(out, here.similarity(queries, keys, scale))
    assert (out.sum(dim=1) - 1).abs().max() < 3 * CUDA_COSINE
    truth = torch.softmax(scale * exact_cosines(queries, keys), dim=1)
    plain = reference.similarity(queries.float(), keys.float(), scale)
    assert_parity(out, plain, truth, eps=CUDA_COSINE)


KINDS = pytest.mark.parametrize(
    ("dtype", "kind"),
    [(BF16, BF16), (FP16, FP16), (BF16, INT8), (FP16, INT8)],
    ids=["bf16", "fp16", "bf16-int8", "fp16-int8"],
)


@KINDS
@pytest.mark.parametrize("k", [1, 20])
def test_small_top_k(k, dtype, kind):
    check_top_k(gallery_rows(130, 48, dtype), gallery_rows(150, 48, kind, seed=1), k)


@KINDS
def test_small_similarity(dtype, kind):
    check_similarity(gallery_rows(130, 48, dtype), gallery_rows(150, 48, kind, seed=1))


@published
@KINDS
@pytest.mark.parametrize(("queries", "k"), [(1, 10), (256, 10), (256, 100), (300, 1), (64, 128)])
def test_published_top_k(queries, k, dtype, kind):
    check_top_k(gallery_rows(queries, 512, dtype), gallery_rows(500_000, 512, kind, seed=1), k)


@published
@KINDS
@pytest.mark.parametrize("width", [640, 768, 1024])
def test_published_widths(width, dtype, kind):
    queries, gallery = gallery_rows(256, width, dtype), gallery_rows(20_000, width, kind, seed=1)
    check_top_k(queries, gallery, 10)
    check_similarity(queries, gallery)


@published
def test_published_top_k_beyond_32_bits_of_elements():
    gallery = gallery_rows(4_300_000, 512, INT8, seed=1)
    assert gallery.numel() > 2**31
    rows = torch.tensor([0, 4_200_000, 4_299_999], device=here.device)
    scores, found = here.top_k(gallery[rows].to(BF16), gallery, 2)
    assert torch.equal(found[:, 0], rows)
    assert (scores[:, 0] - 1).abs().max() <= CUDA_COSINE


@published
def test_published_operations_in_a_graph_and_on_another_stream():
    qkv = gallery_rows(2 * 257, 3 * 16 * 64, BF16)
    queries, gallery = gallery_rows(9, 512, BF16), gallery_rows(5000, 512, BF16, seed=1)

    def operations():
        return (
            here.attention(qkv, 16, length=257),
            here.similarity(queries, gallery, 100.0),
            *here.top_k(queries, gallery, 10),
        )

    expected = operations()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        elsewhere = operations()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = operations()
    graph.replay()
    torch.cuda.synchronize()
    for one, two, three in zip(expected, elsewhere, captured, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)
