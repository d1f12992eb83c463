"""Small packed batches of texts through graphs: rows as without them, whatever a bucket held before; bounded."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache

import pytest
import torch

from clipfast.device import DeviceTexts, HostLayer
from clipfast.device.texts import BUCKETS
from clipfast.encoder import TowerEncoder
from clipfast.engine import Engine
from clipfast.inputs import load_tokenizer
from tests.engine.engines import encode_texts, tiny_engine
from tests.tolerances import TOWER_FLOAT32

TEXTS = [" ".join(["a", "photo", "of", str(n), "dogs"] * (1 + n % 9)) for n in range(60)]


def engine(layer: HostLayer, *, waits: bool = False, batch_invariant: bool = False) -> Engine:
    """The reference's operations, taken for ones that can be captured: a HostLayer's graphs run them again."""
    plain = tiny_engine(torch.float32).encoder
    assert isinstance(plain, TowerEncoder)
    ops = replace(plain.ops, packed_waits=waits)
    encoder = TowerEncoder(plain.config, plain.parameters, ops, plain.device)
    return Engine(encoder, load_tokenizer(), layer=layer, batch_invariant=batch_invariant)


def graphs(device: Engine) -> DeviceTexts:
    assert device.placement is not None
    assert device.placement.texts is not None
    return device.placement.texts


@cache
def text_rows() -> torch.Tensor:
    return encode_texts(tiny_engine(torch.float32), TEXTS)


def close(rows: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((rows - expected).abs().max() < TOWER_FLOAT32)


def test_rows_are_those_without_graphs_whatever_a_bucket_held_before() -> None:
    rng, device = random.Random(0), engine(HostLayer())
    for _ in range(150):
        chosen = rng.sample(range(len(TEXTS)), rng.choice([1, 2, 3, 7, 20, 50]))
        rows = encode_texts(device, [TEXTS[at] for at in chosen], share_prefixes=False)
        assert close(rows, text_rows()[chosen])
    assert len(graphs(device).sizes) > 5
    assert set(graphs(device).sizes) <= set(BUCKETS)


@pytest.mark.parametrize(
    ("texts", "size"),
    [
        (["a"], 16),
        ([""] * 1, 16),
        (["a", "b", "c", "d", "e"], 32),  # 15 tokens, and room for four texts in 16
        (["a dog " * 30], 64),
        ([f"a dog {n}" for n in range(150)], 1024),
        ([f"a photo of {n} dogs in the snow" for n in range(300)], 3584),  # 3490 tokens
    ],
)
def test_buckets_hold_the_tokens_and_the_texts(texts: list[str], size: int) -> None:
    device = engine(HostLayer())
    expected = encode_texts(tiny_engine(torch.float32), texts)
    assert close(encode_texts(device, texts, share_prefixes=False), expected)
    assert graphs(device).sizes == [size]


def test_large_batches_and_trees_are_launched_one_by_one() -> None:
    layer = HostLayer()
    device = engine(layer)
    many = [f"a photo of {n} dogs in the snow" for n in range(800)]
    expected = encode_texts(tiny_engine(torch.float32), many)
    assert close(encode_texts(device, many, share_prefixes=False), expected)
    assert close(encode_texts(device, many[:20], share_prefixes=True), expected[:20])
    assert encode_texts(device, []).shape == (0, 32)
    assert layer.calls["capture"] == 0


def test_one_text_at_a_time_is_the_same_in_any_company() -> None:
    device = engine(HostLayer(), batch_invariant=True)
    together = encode_texts(device, TEXTS[:9])
    alone = torch.cat([encode_texts(device, [text]) for text in TEXTS[:9]])
    assert torch.equal(together, alone)
    assert graphs(device).sizes


def test_too_little_memory_for_graphs_changes_no_row() -> None:
    layer = HostLayer()
    layer.fail("capture", times=2)
    device = engine(layer)
    for _ in range(4):
        rows = encode_texts(device, TEXTS[:5], share_prefixes=False)
        assert close(rows, text_rows()[:5])
    weight = torch.ones(32, requires_grad=True)
    (rows @ weight).sum().backward()
    assert weight.grad is not None


def test_rows_that_are_not_normalised_have_graphs_of_their_own() -> None:
    layer = HostLayer()
    device, plain = engine(layer), tiny_engine(torch.float32)
    for _ in range(2):
        for normalize in (True, False):
            rows = encode_texts(device, TEXTS[:5], normalize=normalize)
            expected = encode_texts(plain, TEXTS[:5], normalize=normalize)
            assert close(rows / 10, expected / 10)
    assert layer.calls["capture"] == 2


def test_memory_is_bounded_and_given_back() -> None:
    layer = HostLayer()
    device = engine(layer)
    for _ in range(3):
        for count in (1, 5, 20, 50):
            encode_texts(device, TEXTS[:count], share_prefixes=False)
    assert layer.host_bytes == 0
    assert layer.most_host_bytes == max(graphs(device).sizes) * 3 * 4
    assert layer.device_bytes == layer.most_device_bytes == BUCKETS[-1] * 3 * 4
    device.release()
    assert layer.device_bytes == 0
    assert graphs(device).sizes == []
    assert close(encode_texts(device, TEXTS[:5], share_prefixes=False), text_rows()[:5])


def test_operations_that_wait_for_lengths_have_no_graphs() -> None:
    layer = HostLayer()
    device = engine(layer, waits=True)
    assert device.describe()["text graphs"] == "launched one by one"
    assert close(encode_texts(device, TEXTS[:5], share_prefixes=False), text_rows()[:5])
    assert layer.calls["capture"] == 0
