"""Several batches at once on the CPU: every row at its place, groups of equal work, and threads that stay their own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch

from clipfast import encoder as encoders
from clipfast.engine import Engine
from clipfast.errors import InputError
from clipfast.streams import Streams
from tests.engine.engines import encode_images, encode_texts, tiny_engine
from tests.native.kernels import needs_native

pytestmark = needs_native


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def with_streams(count: int) -> Engine:
    plain = tiny_engine()
    return Engine(plain.encoder, plain.tokenizer, streams=count)


def test_each_stream_has_its_share_of_the_threads_and_nobody_else_notices() -> None:
    seen = {}

    def work(item: int) -> int:
        seen[item] = threading.current_thread().name, torch.get_num_threads()
        return item

    with Streams(None, usual=2).open(work) as underway:
        done = list(underway.all(range(5), lambda _: 1))
    assert sorted(done) == [(item, item) for item in range(5)]
    inside, last = [seen[item] for item in range(4)], seen[4]
    assert all(name.startswith("clipfast-stream") and share == 1 for name, share in inside)
    assert last == (threading.current_thread().name, 2), "one batch alone has all threads"
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 2


@pytest.mark.parametrize(
    ("asked", "threads", "count"), [(None, 2, 2), (None, 3, 1), (None, 1, 1), (4, 2, 2), (1, 2, 1)]
)
def test_there_are_never_more_streams_than_threads(
    asked: int | None, threads: int, count: int
) -> None:
    torch.set_num_threads(threads)
    assert Streams(asked, usual=2).count == count


def test_streams_are_for_what_does_not_depend_on_the_number_of_threads() -> None:
    plain = tiny_engine()
    tower = plain.encoder
    assert isinstance(tower, encoders.TowerEncoder)

    def engine(at_once: int, **options: Any) -> Engine:
        ops = replace(tower.ops, batches_at_once=at_once)
        encoder = encoders.TowerEncoder(tower.config, tower.parameters, ops, tower.device)
        return Engine(encoder, plain.tokenizer, **options)

    assert engine(1).describe()["batches at once"] == 1
    assert engine(2).describe()["batches at once"] == 2
    assert engine(2, streams=1).describe()["batches at once"] == 1
    assert engine(1, streams=2).describe()["batches at once"] == 2
    assert engine(2, streams=2, batch_invariant=True).describe()["batches at once"] == 1


def test_two_run_at_once() -> None:
    both = threading.Barrier(2, timeout=20)

    def work(item: int) -> int:
        return both.wait()

    with Streams(2).open(work) as underway:
        assert len(list(underway.all(range(2), lambda _: 1))) == 2


def test_unequal_items_are_done_one_after_another_by_all_threads() -> None:
    def work(item: int) -> int:
        return torch.get_num_threads()

    sizes = [32, 8, 32, 30, 5]
    with Streams(2).open(work) as underway:
        done = dict(underway.all(range(5), lambda item: sizes[item]))
    assert done == {0: 2, 1: 2, 2: 1, 3: 1, 4: 2}


def test_what_fails_is_raised_and_nothing_stays_under_way() -> None:
    running = set()

    def work(item: int) -> int:
        running.add(item)
        try:
            if item == 1:
                raise ValueError("item 1")
            return item
        finally:
            running.discard(item)

    streams = Streams(2)
    with pytest.raises(ValueError, match="item 1"), streams.open(work) as underway:
        list(underway.all(range(8), lambda _: 1))
    assert not running
    with streams.open(work) as underway:
        assert len(list(underway.all([0, 2, 4, 6], lambda _: 1))) == 4


def test_few_items_wait_for_a_slow_consumer() -> None:
    """Bounded memory: a stream of batches is not taken faster than it is computed."""
    given = []

    def items() -> Iterator[int]:
        for item in range(40):
            given.append(item)
            yield item

    with Streams(2).open(lambda item: item) as underway:
        for taken, _ in enumerate(underway.all(items(), lambda _: 1)):
            assert len(given) - taken <= 3 * 2


@pytest.mark.parametrize("count", [1, 7, 8, 9, 19, 50])
def test_images_are_what_they_are_one_at_a_time(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "CPU_IMAGES", 8)
    size = tiny_engine().encoder.config.vision.image_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, size, size), generator=generator).to(torch.uint8)
    alone = torch.cat([encode_images(with_streams(1), image[None]) for image in pixels])
    for batch_size in (None, 3, 32):
        rows = encode_images(with_streams(2), pixels, batch_size=batch_size)
        torch.testing.assert_close(rows, alone)


def test_images_go_through_in_equal_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "CPU_IMAGES", 8)
    engine = with_streams(2)
    size, sizes = engine.encoder.config.vision.image_size, list[int]()
    encode = engine.encoder.encode_pixels

    def encode_pixels(pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        return encode(pixels)

    monkeypatch.setattr(engine.encoder, "encode_pixels", encode_pixels)
    encode_images(engine, torch.zeros(19, 3, size, size, dtype=torch.uint8), batch_size=32)
    assert sorted(sizes) == [4, 5, 5, 5]


def test_a_bad_image_stops_the_others() -> None:
    size = tiny_engine().encoder.config.vision.image_size
    images: list[object] = [torch.zeros(size, size, 3, dtype=torch.uint8)] * 40
    images[21] = b"no image"
    engine = with_streams(2)
    with pytest.raises(InputError) as failed:
        encode_images(engine, images, batch_size=4)
    assert failed.value.index == 21
    rows = encode_images(engine, images, batch_size=4, errors="null")
    assert rows.isnan().any(dim=1).nonzero().flatten().tolist() == [21]
    torch.testing.assert_close(rows[20], rows[39])


def test_texts_are_what_they_are_one_at_a_time() -> None:
    texts = [f"a photo of {number} {'very ' * (number % 5)}small dogs" for number in range(60)]
    one, two = (
        encode_texts(with_streams(count), texts, batch_size=5, share_prefixes=False)
        for count in (1, 2)
    )
    torch.testing.assert_close(one, two)
