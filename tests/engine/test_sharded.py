"""One engine on each device: contiguous shares, rows and errors at the places of the whole input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clipfast.device import HostLayer
from clipfast.engine import Engine
from clipfast.errors import ConfigurationError, InputError, UnsupportedError
from clipfast.sharded import ShardedEngine, resolve_devices
from tests.engine.engines import encode_images, encode_texts, tiny_engine
from tests.tolerances import TOWER_FLOAT32

DEVICES = 3


def sharded() -> tuple[ShardedEngine, list[HostLayer]]:
    plain = tiny_engine(torch.float32)
    layers = [HostLayer(lazy=("copy", "compute", "back")) for _ in range(DEVICES)]
    engines = [Engine(plain.encoder, plain.tokenizer, layer=layer) for layer in layers]
    return ShardedEngine(engines), layers


def images(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8, generator=generator)


def close(rows: torch.Tensor, expected: torch.Tensor) -> bool:
    return rows.shape == expected.shape and bool((rows - expected).abs().max() < TOWER_FLOAT32)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_rows_come_back_in_input_order(count: int) -> None:
    engine, layers = sharded()
    pixels = images(count)
    expected = encode_images(tiny_engine(torch.float32), pixels)
    assert close(encode_images(engine, pixels), expected)
    assert close(encode_images(engine, pixels.numpy(), batch_size=2), expected)
    assert close(encode_images(engine, [*pixels.permute(0, 2, 3, 1).numpy()]), expected)
    used = [layer.calls["submit"] > 0 for layer in layers]
    assert used == [True] * min(count, DEVICES) + [False] * max(0, DEVICES - count)


def test_streams_go_out_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipfast.sharded.STREAM_SHARE", 4)
    engine, layers = sharded()
    pixels = images(29)
    expected = encode_images(tiny_engine(torch.float32), pixels)
    assert close(encode_images(engine, iter(pixels.permute(0, 2, 3, 1).numpy())), expected)
    assert all(layer.calls["submit"] for layer in layers)
    texts = [f"photo {number}" for number in range(29)]
    got = encode_texts(engine, iter(texts))  # type: ignore[arg-type]
    assert close(got, encode_texts(tiny_engine(torch.float32), texts))


def test_one_image_and_none() -> None:
    engine, _ = sharded()
    plain = tiny_engine(torch.float32)
    one = torch.randn(3, 64, 64)
    assert close(encode_images(engine, one), encode_images(plain, one))
    assert encode_images(engine, []).shape == (0, 32)
    assert encode_images(engine, iter([])).shape == (0, 32)
    assert encode_texts(engine, []).shape == (0, 32)


def test_texts_and_their_statistics() -> None:
    engine, _ = sharded()
    plain = tiny_engine(torch.float32)
    texts = [f"a photo of {number} dogs" for number in range(20)]
    assert close(encode_texts(engine, texts), encode_texts(plain, texts))
    assert engine.last_text_statistics.texts == 20
    assert engine.last_text_statistics.tokens == plain.last_text_statistics.tokens
    ids = plain.tokenizer.tokenize(texts)
    assert close(engine.encode_tokens(ids, normalize=True), encode_texts(plain, texts))


def test_bad_images_are_found_at_their_place_in_the_whole() -> None:
    engine, _ = sharded()
    items: list[object] = [*images(12).permute(0, 2, 3, 1).numpy()]
    for at in (5, 9, 11):
        items[at] = b"no image"
    rows = encode_images(engine, items, errors="null")
    assert rows.isnan().all(dim=1).nonzero().flatten().tolist() == [5, 9, 11]
    assert [error.index for error in engine.last_errors] == [5, 9, 11]
    with pytest.raises(InputError, match="input 5"):
        encode_images(engine, items)
    assert engine.last_errors == []


def test_a_call_that_raises_forgets_the_errors_of_the_one_before() -> None:
    for engine in (sharded()[0], tiny_engine(torch.float32)):
        for wrong in ({"batch_size": 0}, {"errors": "ignore"}, {"images": [b"no image"]}):
            encode_images(engine, [b"no image"], errors="null")
            assert len(engine.last_errors) == 1
            with pytest.raises((InputError, ConfigurationError)):
                encode_images(engine, **{"images": [], **wrong})
            assert engine.last_errors == []


def test_a_bad_text_is_found_at_its_place_in_the_whole() -> None:
    engine, _ = sharded()
    with pytest.raises(InputError, match="input 9") as raised:
        encode_texts(engine, ["a"] * 9 + ["word " * 90] + ["a"] * 5)
    assert raised.value.index == 9


@pytest.mark.parametrize("wrong", ["a/path.jpg", b"bytes", {1: 2}, 7], ids=str)
def test_what_is_no_collection_is_refused_as_one_engine_refuses_it(wrong: object) -> None:
    engine, _ = sharded()
    with pytest.raises(InputError) as raised:
        encode_images(engine, wrong)
    with pytest.raises(InputError) as alone:
        encode_images(tiny_engine(torch.float32), wrong)
    assert str(raised.value) == str(alone.value)


def test_describes_and_releases_every_device() -> None:
    engine, layers = sharded()
    encode_images(engine, images(9))
    assert set(engine.describe()) == {"cpu"}
    engine.release()
    assert all(layer.calls["release_cached"] for layer in layers)


def test_one_device_and_all_of_none() -> None:
    assert resolve_devices("cpu") == [torch.device("cpu")]
    if torch.cuda.is_available():
        found = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
        assert resolve_devices("cuda:all") == found
    else:
        with pytest.raises(UnsupportedError, match="'cuda:all' was asked for and no CUDA device"):
            resolve_devices("cuda:all")


def test_arrays_of_other_shapes_go_to_one_engine() -> None:
    engine, layers = sharded()
    with pytest.raises(InputError, match="wrap a single image in a list"):
        encode_images(engine, np.zeros((64, 64, 3), np.uint8))
    assert not layers[1].calls["submit"]
