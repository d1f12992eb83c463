"""Inputs under threads and forks: same bits, no hang."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from clipfast.config import PreprocessConfig
from clipfast.inputs import image_batches, load_tokenizer, preprocess_image
from tests.inputs.broken_files import encoded, photo

CONFIG = PreprocessConfig()
TEXTS = [f"a photo of {n} cats & dogs, café no. {n % 7}" for n in range(200)]


class Samples(torch.utils.data.Dataset):
    """JPEG bytes and texts, preprocessed where the loader runs."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        pixels = preprocess_image(encoded(photo(60, 40, index)), CONFIG, 32)
        ids = load_tokenizer().tokenize(TEXTS[index])[0]
        return torch.from_numpy(pixels), torch.from_numpy(ids)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_data_loader_workers(context):
    here = list(DataLoader(Samples(), batch_size=3))
    workers = DataLoader(
        Samples(), batch_size=3, num_workers=2, multiprocessing_context=context, timeout=120
    )
    for ours, theirs in zip(here, workers, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


def _encode_in_child(queue):
    sources = [encoded(photo(60, 40, seed)) for seed in range(6)]
    pixels = [
        batch.pixels for batch in image_batches(sources, CONFIG, 32, batch_size=2, num_workers=2)
    ]
    queue.put((torch.cat(pixels).numpy(), load_tokenizer().pack(TEXTS).ids))


def test_fork_while_threads_are_decoding():
    """The child starts its own threads; none of the parent's locks are left locked in it."""
    context = multiprocessing.get_context("fork")
    sources = [photo(60, 40, seed) for seed in range(400)]
    batches = image_batches(sources, CONFIG, 32, batch_size=50, num_workers=4)
    next(batches)
    queue = context.Queue()
    child = context.Process(target=_encode_in_child, args=(queue,))
    child.start()
    pixels, ids = queue.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0
    assert sum(len(batch.indices) for batch in batches) == 350
    expected = [preprocess_image(encoded(photo(60, 40, seed)), CONFIG, 32) for seed in range(6)]
    np.testing.assert_array_equal(pixels, np.stack(expected))
    np.testing.assert_array_equal(ids, load_tokenizer().pack(TEXTS).ids)


def test_eight_threads_equal_one():
    tokenizer = load_tokenizer()
    data = [encoded(photo(60 + n, 40, n)) for n in range(8)]

    def encode(start):
        texts = TEXTS[start * 20 : start * 20 + 40]
        return [
            (preprocess_image(data[start], CONFIG, 32), tokenizer.pack(texts).ids)
            for _ in range(25)
        ]

    serial = [encode(start)[0] for start in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for expected, results in zip(serial, pool.map(encode, range(8)), strict=True):
            for pixels, ids in results:
                assert np.array_equal(pixels, expected[0])
                assert np.array_equal(ids, expected[1])
