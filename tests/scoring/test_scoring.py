"""similarity, top_k and contrastive_loss against their equations in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import clipfast
from clipfast.backends.reference import REFERENCE
from tests.tolerances import SCORES_FLOAT32

SHAPES = [(1, 1, 1), (3, 7, 5), (16, 257, 512), (2, 1000, 33)]


def pair(
    m: int, n: int, e: int, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(m * n + e)
    return (
        torch.randn(m, e, generator=generator).to(dtype),
        3 * torch.randn(n, e, generator=generator).to(dtype),
    )


def cosines(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    return F.normalize(queries.double(), dim=1) @ F.normalize(keys.double(), dim=1).T


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_similarity_is_softmax_of_scaled_cosines(
    shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    queries, keys = pair(*shape, dtype)
    got = clipfast.similarity(queries, keys, scale=100.0)
    assert got.dtype == torch.float32
    truth = (100 * cosines(queries, keys)).softmax(dim=1)
    assert (got.double() - truth).abs().max() < SCORES_FLOAT32
    assert (got.sum(dim=1) - 1).abs().max() < SCORES_FLOAT32


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_top_k_is_the_largest_cosines(shape: tuple[int, int, int], k: int) -> None:
    queries, gallery = pair(*shape)
    scores, indices = clipfast.top_k(queries, gallery, k=k)
    truth = cosines(queries, gallery)
    assert indices.dtype == torch.int64
    assert torch.equal(indices, truth.topk(k).indices)
    assert (scores.double() - truth.gather(1, indices)).abs().max() < SCORES_FLOAT32


def test_top_k_takes_the_lower_index_among_equals() -> None:
    gallery = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 3.0], [4.0, 0.0]])
    for top_k in (clipfast.top_k, REFERENCE.top_k):
        scores, indices = top_k(torch.tensor([[1.0, 0.0]]), gallery, 4)
        assert indices.tolist() == [[0, 2, 4, 1]]
        assert scores.tolist() == [[1.0, 1.0, 1.0, 0.0]]


def test_reference_top_k_is_the_same_in_any_number_of_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queries, gallery = pair(3, 100, 8)
    whole = REFERENCE.top_k(queries, gallery, 10)
    monkeypatch.setattr("clipfast.backends.reference._SCORE_BLOCK", 21)
    assert torch.equal(REFERENCE.top_k(queries, gallery, 10)[1], whole[1])


@pytest.mark.parametrize("n", [1, 2, 300])
def test_contrastive_loss_is_the_mean_cross_entropy(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipfast.backends.reference._SCORE_BLOCK", 10_000)
    images, texts = pair(n, n, 64)
    logits = 30 * cosines(images, texts)
    target = torch.arange(n)
    truth = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    assert clipfast.contrastive_loss(images, texts, 30.0) == pytest.approx(float(truth), abs=1e-5)


def test_numpy_and_memory_mapped_galleries(tmp_path: object) -> None:
    queries, gallery = pair(2, 50, 16)
    path = f"{tmp_path}/gallery.npy"
    np.save(path, gallery.numpy().astype(np.float16))
    mapped = np.load(path, mmap_mode="r")
    _, indices = clipfast.top_k(queries, mapped, k=3)
    truth = cosines(queries.half(), torch.from_numpy(np.array(mapped))).topk(3).indices
    assert torch.equal(indices, truth)


@pytest.mark.parametrize(
    ("call", "code", "said"),
    [
        (lambda a, b: clipfast.top_k(a, b, k=8), "wrong_shape", "1 <= k <= 7"),
        (lambda a, b: clipfast.top_k(a, b, k=0), "wrong_shape", "k=0"),
        (lambda a, b: clipfast.top_k(a, b[:0], k=1), "wrong_shape", "0 rows"),
        (lambda a, b: clipfast.similarity(a, b[:0], 1.0), "wrong_shape", "no keys"),
        (lambda a, b: clipfast.similarity(a, b[:, :3], 1.0), "wrong_shape", "5 and 3 columns"),
        (lambda a, b: clipfast.similarity(a[0], b, 1.0), "wrong_shape", "(5,)"),
        (lambda a, b: clipfast.similarity(a.int(), b, 1.0), "wrong_type", "int32"),
        (lambda a, b: clipfast.similarity([[1.0]], b, 1.0), "wrong_type", "list"),
        (lambda a, b: clipfast.contrastive_loss(a, b, 1.0), "wrong_shape", "3 images and 7 texts"),
    ],
)
def test_wrong_arguments_are_named(call: object, code: str, said: str) -> None:
    with pytest.raises(
        clipfast.InputError, match=said.replace("(", r"\(").replace(")", r"\)")
    ) as caught:
        call(*pair(3, 7, 5))  # type: ignore[operator]
    assert caught.value.code == code
