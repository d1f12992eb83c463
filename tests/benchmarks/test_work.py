from __future__ import annotations

import numpy as np
import pytest

from benchmarks import work
from benchmarks.work import MODELS, Work, flops, gallery_bytes, vision_flops

# GFLOP an image, open_clip's docs/model_profile.csv; RN50 as the reference pools it, with one query.
PUBLISHED = {"ViT-B-32": 8.82, "ViT-B-16": 35.13, "ViT-L-14": 162.03, "RN50": 11.59}


@pytest.mark.parametrize("model", PUBLISHED)
def test_vision_flops_are_the_published(model):
    assert vision_flops(MODELS[model]) / 1e9 == pytest.approx(PUBLISHED[model], abs=0.005)


def test_text_flops_count_tokens_without_padding():
    """5.96 GFLOP at 77 tokens of width 512 (open_clip); ours have 6 to 30, and attention's part shrinks with them."""
    one = Work("texts", "fp32", 1, 2, "ViT-B-32")
    tokens = int(work.token_ids("texts", 1, 77).argmax()) + 1
    got = flops(one)
    assert got is not None
    assert got / 1e9 == pytest.approx(5.96 * tokens / 77, rel=0.03)
    two = flops(Work("texts", "fp32", 2, 2, "ViT-B-32"))
    assert two is not None
    assert two > got


def test_search_flops_and_bytes():
    search = Work("top_k", "bf16", 32, 2, gallery=1000)
    assert flops(search) == 2 * 32 * 1000 * 512
    assert gallery_bytes(search) == 1000 * 512 * 2
    assert gallery_bytes(Work("similarity", "bf16", 32, 2, gallery=1000)) is None


def test_an_image_is_the_same_in_every_batch():
    np.testing.assert_array_equal(work.pixels(4, 32)[:2], work.pixels(2, 32))
    assert work.texts("texts", 4)[:2] == work.texts("texts", 2)


def test_normalised_pixels():
    config = MODELS["tiny"]
    images = work.pixels(2, 64)
    expected = (images[1, 2, 5, 7] / 255 - 0.40821073) / 0.27577711
    got = work.normalised(images, config)
    assert got.dtype == np.float32
    assert got[1, 2, 5, 7] == pytest.approx(expected, abs=1e-6)


def test_embeddings_are_unit_rows():
    rows = work.embeddings(10, seed=3)
    assert rows.shape == (10, 512)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(10), abs=1e-6)
