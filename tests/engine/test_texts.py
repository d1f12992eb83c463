"""Packed, tree and padded text paths agree; order, duplicates and batch composition do not matter."""

from __future__ import annotations

import random
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipfast.inputs import PackedTexts, load_tokenizer
from clipfast.inputs.packing import TextBatch, plan_texts
from tests.engine.engines import encode_texts, tiny_engine
from tests.model.textbook import Textbook
from tests.tolerances import TEXT_PATHS_FLOAT32, TEXT_PATHS_FLOAT64
from tests.weights import random_weights, tiny

WORDS = ["a", "photo", "of", "the", "red", "cat", "dog", "seven", "blurry", "42"]


def captions(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randrange(0, 9))) for _ in range(count)]


def padded_truth(texts: list[str]) -> torch.Tensor:
    config = tiny()
    ids = torch.from_numpy(load_tokenizer().tokenize(texts, truncate=True))
    embeddings = Textbook(random_weights(config, seed=0), config).text(ids)
    return torch.nn.functional.normalize(embeddings, dim=-1)


CASES = {
    "mixed": captions(40),
    "duplicates": captions(5) * 4,
    "one empty": [""],
    "full length": ["word " * 75, "word " * 74 + "other"],
    "sharing a stem": [f"a photo of a {word}" for word in WORDS] + ["a photo of a"],
    "sharing nothing": ["cat", "dog", "red"],
    "single": ["a photo of a cat"],
}


@pytest.mark.parametrize("share_prefixes", [True, False, None])
@pytest.mark.parametrize("case", CASES)
def test_packed_and_tree_equal_padded_in_float64(case: str, share_prefixes: bool | None) -> None:
    texts = CASES[case]
    got = encode_texts(tiny_engine(), texts, share_prefixes=share_prefixes)
    assert got.dtype == torch.float64
    assert (got - padded_truth(texts)).abs().max() < TEXT_PATHS_FLOAT64


@pytest.mark.parametrize("share_prefixes", [True, False])
def test_float32_paths_agree_with_float64(share_prefixes: bool) -> None:
    texts = CASES["mixed"]
    got = encode_texts(tiny_engine(torch.float32), texts, share_prefixes=share_prefixes)
    assert (got.double() - padded_truth(texts)).abs().max() < TEXT_PATHS_FLOAT32


def test_order_of_texts_is_kept_whatever_the_batches() -> None:
    texts = captions(60, seed=3)
    truth = padded_truth(texts)
    for batch_size in (1, 7, 60):
        for share_prefixes in (True, False):
            got = encode_texts(
                tiny_engine(), texts, batch_size=batch_size, share_prefixes=share_prefixes
            )
            assert (got - truth).abs().max() < TEXT_PATHS_FLOAT64


def test_ten_thousand_texts_sharing_one_stem_cost_their_suffixes() -> None:
    texts = [f"a photo of a cat number {i}" for i in range(10_000)]
    engine = tiny_engine()
    got = encode_texts(engine, texts, share_prefixes=True)
    done = engine.last_text_statistics
    assert done.texts == 10_000
    assert done.rows < done.tokens / 5
    chosen = [0, 1, 4_999, 9_999]
    assert (got[chosen] - padded_truth([texts[i] for i in chosen])).abs().max() < TEXT_PATHS_FLOAT64


def test_generator_of_texts_is_streamed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipfast.engine.TEXT_PIECE", 16)
    texts = captions(50, seed=5)
    got = encode_texts(tiny_engine(), iter(texts))  # type: ignore[arg-type]
    assert (got - padded_truth(texts)).abs().max() < TEXT_PATHS_FLOAT64


def test_no_texts_give_no_rows() -> None:
    assert encode_texts(tiny_engine(), []).shape == (0, 32)


# ---- the plan itself: every text is answered by exactly its own tokens -----------------------------------------


def text_of(batch: TextBatch, b: int) -> list[int]:
    rows = np.arange(len(batch.ids)) if batch.key_rows is None else batch.key_rows
    return batch.ids[rows[batch.cu_seqlens[b] : batch.cu_seqlens[b + 1]]].tolist()


token_lists = st.lists(
    st.lists(st.integers(0, 3), max_size=6).map(lambda body: [9, *body, 8]), min_size=1, max_size=30
)


@settings(deadline=None, max_examples=200)
@given(token_lists, st.integers(1, 40), st.integers(1, 10), st.booleans())
def test_plan_answers_every_text_with_its_own_tokens(
    rows: list[list[int]], max_rows: int, max_texts: int, share_prefixes: bool
) -> None:
    lengths = [len(row) for row in rows]
    packed = PackedTexts(
        np.array(list(chain.from_iterable(rows)), np.int32),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
    )
    plan = plan_texts(packed, max_rows=max_rows, max_texts=max_texts, share_prefixes=share_prefixes)
    answered = []
    for batch in plan:
        unique = len(batch.cu_seqlens) - 1
        assert len(batch.ids) <= max_rows or unique == 1
        assert unique <= max_texts
        for text, b in zip(batch.texts.tolist(), batch.unique.tolist(), strict=True):
            assert text_of(batch, b) == rows[text]
            answered.append(text)
        if batch.key_rows is not None:
            assert_runs_follow_their_prefix(batch)
    assert sorted(answered) == list(range(len(rows)))
    assert plan.tokens == sum(lengths)
    assert plan.rows <= plan.tokens


def assert_runs_follow_their_prefix(batch: TextBatch) -> None:
    """Run b's own rows are the last keys of text b, at the positions that follow its prefix."""
    assert batch.cu_queries is not None
    assert batch.key_rows is not None
    for b in range(len(batch.cu_seqlens) - 1):
        own = np.arange(batch.cu_queries[b], batch.cu_queries[b + 1])
        keys = batch.key_rows[batch.cu_seqlens[b] : batch.cu_seqlens[b + 1]]
        assert keys[len(keys) - len(own) :].tolist() == own.tolist()
        assert batch.positions[keys].tolist() == list(range(len(keys)))


def test_tree_of_one_batch_has_every_prefix_once() -> None:
    rows = [[9, 1, 2, 8], [9, 1, 3, 8], [9, 1, 2, 8], [9, 2, 8]]
    packed = PackedTexts(
        np.array(list(chain.from_iterable(rows)), np.int32), np.array([0, 4, 8, 12, 15], np.int32)
    )
    plan = plan_texts(packed, max_rows=100, share_prefixes=True)
    prefixes = {tuple(row[: i + 1]) for row in rows for i in range(len(row))}
    assert plan.rows == len(prefixes) == 8
    assert (
        plan_texts(packed, max_rows=100, share_prefixes=False).rows == 11
    )  # the duplicate is encoded once
