"""Threads, pickling, spawned and forked processes."""

from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

import pytest
import torch

import clipfast
from clipfast import loading
from tests.api.images import photo

TEXTS = ["a cat", "a photo of a dog", "", "seven red circles"]


def test_eight_threads_equal_serial_bits(model: clipfast.Model) -> None:
    images = [[photo(seed), photo(seed + 1)] for seed in range(8)]
    serial = [
        (model.encode_images(pair), model.encode_texts(TEXTS[i % 4 :]))
        for i, pair in enumerate(images)
    ]

    def repeat(i: int) -> bool:
        return all(
            torch.equal(model.encode_images(images[i]), serial[i][0])
            and torch.equal(model.encode_texts(TEXTS[i % 4 :]), serial[i][1])
            for _ in range(100)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(repeat, range(8)))


def test_pickle_loads_again(model: clipfast.Model) -> None:
    copy = pickle.loads(pickle.dumps(model))
    assert torch.equal(copy.encode_texts(TEXTS), model.encode_texts(TEXTS))
    assert len(pickle.dumps(model)) < 2_000


def encode_and_send(model: clipfast.Model, pipe: Connection) -> None:
    pipe.send(model.encode_texts(TEXTS).tolist())


def test_spawned_process_encodes(model: clipfast.Model) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=encode_and_send, args=(model, theirs))
    process.start()
    assert ours.poll(120)
    assert (torch.tensor(ours.recv()) - model.encode_texts(TEXTS)).abs().max() < 1e-6
    process.join(30)
    assert process.exitcode == 0


def use_in_child(model: clipfast.Model, pipe: Connection) -> None:
    try:
        model.encode_texts(TEXTS)
    except clipfast.ForkedProcessError as error:
        pipe.send(str(error))
    pipe.send((model.preprocess(photo(0)).sum(), model.tokenize(TEXTS).tolist()))


def test_forked_child_is_refused_and_may_prepare_inputs(model: clipfast.Model) -> None:
    model.encode_texts(TEXTS)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=use_in_child, args=(model, theirs))
    process.start()
    assert ours.poll(60)
    assert "spawn" in ours.recv()
    assert ours.poll(60)
    pixels, ids = ours.recv()
    assert pixels == model.preprocess(photo(0)).sum()
    assert ids == model.tokenize(TEXTS).tolist()
    process.join(30)
    assert process.exitcode == 0


def test_no_more_threads_than_the_process_may_use(
    tiny_directory: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(loading, "available_processors", lambda: 1)
    clipfast.load(str(tiny_directory))
    assert torch.get_num_threads() == 1
    clipfast.load(str(tiny_directory), threads=2)
    assert torch.get_num_threads() == 2, "asked for is asked for"
    monkeypatch.setattr(loading, "available_processors", lambda: 8)
    clipfast.load(str(tiny_directory))
    assert torch.get_num_threads() == 2, "nor more than torch has"
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_argument_sets_torchs_pool(tiny_directory: object, threads: int) -> None:
    before = torch.get_num_threads()
    clipfast.load(str(tiny_directory), threads=threads)
    assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
