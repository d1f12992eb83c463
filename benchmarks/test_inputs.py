"""What feeds the towers, on one thread against what users have today: resize, JPEG files to pixels, texts to ids.

Everything runs in this process, ours and the peer's in turns; only the two cells that measure threads use several.
Before a cell is timed, what the two make is compared.
"""

from __future__ import annotations

import io
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import clipfast
from benchmarks.intervals import paired_ratio
from benchmarks.peers.modules import import_open_clip, make_torchvision_importable
from benchmarks.throughput import OUR_SECONDS, PAIRS
from benchmarks.work import texts
from clipfast.config import OPENAI_MEAN, OPENAI_STD, PreprocessConfig
from clipfast.inputs import (
    DecodeOptions,
    PixelBatch,
    image_batches,
    load_tokenizer,
    preprocess_image,
    resize_crop,
)
from clipfast.inputs.vocabulary import EOT_ID, SOT_ID
from tests.inputs.broken_files import encoded, photo
from tests.inputs.oracles import ReferenceTokenizer, pixel_cosine, reference_pixels
from tests.tolerances import FAST_DECODE_PIXEL_COSINE

pytestmark = pytest.mark.benchmark(timer=OUR_SECONDS)

SIZE = 224
CONFIG = PreprocessConfig()
CAPTIONS = 2000
_TURN_SECONDS = 0.2
Call = Callable[[], object]


class Duel:
    """Ours and a peer in turns, and what came of it in benchmark.extra_info."""

    def __init__(self, benchmark: Any, pairs: int) -> None:
        self._benchmark = benchmark
        self._seconds = _TURN_SECONDS if benchmark.enabled else 0.0
        self._pairs = pairs if benchmark.enabled else 1

    def __call__(
        self, ours: Call, peer: str, theirs: Call, *, items: tuple[int, int] = (1, 1)
    ) -> None:
        """items: how many a call of ours and of theirs serves."""
        our_times: list[float] = []
        their_times: list[float] = []

        def their_turn() -> None:
            if len(their_times) <= len(our_times):
                their_times.append(self._turn(theirs) / items[1])

        def our_turn() -> None:
            seconds = self._turn(ours)
            OUR_SECONDS.advance(seconds)
            our_times.append(seconds / items[0])

        def before() -> None:  # the order within a pair alternates
            if len(our_times) % 2 == 0:
                their_turn()

        def after() -> None:
            if len(their_times) < len(our_times):
                their_times.append(self._turn(theirs) / items[1])

        self._benchmark.pedantic(our_turn, setup=before, teardown=after, rounds=self._pairs)
        self._benchmark.extra_info.update(
            ours={"items_per_second": 1 / median(our_times)},
            peer={"name": peer, "items_per_second": 1 / median(their_times)},
            ratio=asdict(paired_ratio(our_times, their_times)),
        )

    def _turn(self, call: Call) -> float:
        """Mean seconds of a call."""
        calls, start = 0, time.perf_counter()
        while True:
            call()
            calls += 1
            elapsed = time.perf_counter() - start
            if elapsed >= self._seconds:
                return elapsed / calls


@pytest.fixture(autouse=True)
def one_torch_thread(request):
    """torchvision's tensors on one thread, like everything else here but the towers."""
    threads = torch.get_num_threads()
    if "overlap" not in request.node.name:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def duel(request, benchmark):
    return Duel(benchmark, request.config.getoption("--bench-pairs") or PAIRS)


def pillow_transform(data):
    """JPEG bytes to the pixels that the reference sees, through Pillow alone."""
    return reference_pixels(Image.open(io.BytesIO(data)), SIZE)


def torchvision_transform():
    """The reference transform as the release has it, to normalised floats."""
    make_torchvision_importable()
    from torchvision.transforms import (
        CenterCrop,
        Compose,
        InterpolationMode,
        Normalize,
        Resize,
        ToTensor,
    )

    def to_rgb(image: Image.Image) -> Image.Image:
        return image.convert("RGB")

    steps = [Resize(SIZE, InterpolationMode.BICUBIC), CenterCrop(SIZE), to_rgb, ToTensor()]
    transform = Compose([*steps, Normalize(OPENAI_MEAN, OPENAI_STD)])
    return lambda data: transform(Image.open(io.BytesIO(data)))


@pytest.mark.benchmark(group="resize and crop to 224, one thread")
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    "size", [(640, 427), (1920, 1281)], ids=lambda size: "x".join(map(str, size))
)
def test_resize(duel, size, mode):
    image = photo(*size).convert(mode)
    pixels = np.asarray(image)
    np.testing.assert_array_equal(resize_crop(pixels, SIZE), reference_pixels(image, SIZE))
    duel(partial(resize_crop, pixels, SIZE), "pillow", partial(reference_pixels, image, SIZE))


@pytest.mark.benchmark(group="JPEG bytes to pixels, one thread")
@pytest.mark.parametrize("peer", ["pillow", "torchvision"])
@pytest.mark.parametrize(
    "size", [(640, 427), (1920, 1281)], ids=lambda size: "x".join(map(str, size))
)
def test_jpeg(duel, size, peer):
    data = encoded(photo(*size))
    pixels = preprocess_image(data, CONFIG, SIZE)
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0), pillow_transform(data))
    theirs = pillow_transform if peer == "pillow" else torchvision_transform()
    if peer == "torchvision":
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (OPENAI_MEAN, OPENAI_STD))
        torch.testing.assert_close(theirs(data) * std + mean, torch.from_numpy(pixels) / 255)
    duel(partial(preprocess_image, data, CONFIG, SIZE), peer, partial(theirs, data))


@pytest.mark.benchmark(group="JPEG bytes to pixels, decode=fast over exact, one thread")
def test_fast_decoding(duel):
    data = encoded(photo(1920, 1281))  # whose last row, at 3/8, is partly image
    fast = partial(preprocess_image, data, CONFIG, SIZE, DecodeOptions(decode="fast"))
    exact = partial(preprocess_image, data, CONFIG, SIZE)
    assert pixel_cosine(fast(), exact()) >= FAST_DECODE_PIXEL_COSINE
    duel(fast, "exact", exact)


@pytest.mark.benchmark(group="JPEG bytes to pixels, two threads over one")
def test_two_threads(benchmark, duel):
    files = [encoded(photo(640, 427, seed)) for seed in range(8)] * 8

    def batches(workers: int) -> Iterator[PixelBatch]:
        return image_batches(files, CONFIG, SIZE, batch_size=32, num_workers=workers)

    def decode(workers: int) -> None:
        for batch in batches(workers):
            assert not batch.failures

    for two, one in zip(batches(2), batches(1), strict=True):
        assert torch.equal(two.pixels, one.pixels)
    duel(partial(decode, 2), "one thread", partial(decode, 1), items=(len(files), len(files)))
    repeats = 4 if benchmark.enabled else 1
    alone = [seconds_of_processes(files, 1, repeats) for _ in range(repeats)]
    beside = [seconds_of_processes(files, 2, repeats) for _ in range(repeats)]
    benchmark.extra_info["two_processes_over_one"] = median(alone) / median(beside)


def seconds_of_processes(files: list[bytes], count: int, repeats: int) -> float:
    """Seconds in which `count` processes share the files: what the machine gives two that share nothing."""
    context = multiprocessing.get_context("fork")
    start, end = context.Barrier(count + 1), context.Barrier(count + 1)

    def work(first: int) -> None:
        start.wait()
        for data in files[first::count] * repeats:
            preprocess_image(data, CONFIG, SIZE)
        end.wait()

    processes = [context.Process(target=work, args=(first,)) for first in range(count)]
    for process in processes:
        process.start()
    start.wait()
    began = time.perf_counter()
    end.wait()
    seconds = time.perf_counter() - began
    for process in processes:
        process.join()
    return seconds


@pytest.mark.benchmark(group="encode_images from JPEG bytes over decoding, then encoding")
def test_overlap(benchmark, duel, weights):
    """The peer is the time of decoding alone plus that of encoding alone: 1 / (1 / decode + 1 / encode) items/s."""
    model = clipfast.load(weights("ViT-B-32") if benchmark.enabled else "demo")
    size = model.config.vision.image_size
    files = [encoded(photo(640, 427, seed)) for seed in range(8)] * (16 if benchmark.enabled else 1)
    pixels = np.stack([preprocess_image(data, CONFIG, size) for data in files])
    first = slice(32)
    assert torch.equal(model.encode_images(files[first]), model.encode_images(pixels[first]))
    decoding: list[float] = []
    encoding: list[float] = []

    def one_after_the_other() -> None:
        start = time.perf_counter()
        for batch in image_batches(files, CONFIG, size, batch_size=32):
            assert not batch.failures
        decoded = time.perf_counter()
        model.encode_images(pixels, batch_size=32)
        decoding.append(decoded - start)
        encoding.append(time.perf_counter() - decoded)

    items = (len(files), len(files))
    duel(
        partial(model.encode_images, files, batch_size=32),
        "in sequence",
        one_after_the_other,
        items=items,
    )
    benchmark.extra_info["alone"] = {
        "decoded_per_second": len(files) / median(decoding),
        "encoded_per_second": len(files) / median(encoding),
    }


def peer_tokenizer(peer: str) -> Callable[[list[str]], Iterable[Iterable[int]]]:
    if peer == "reference":
        encode = ReferenceTokenizer().encode
        return lambda captions: [encode(caption) for caption in captions]
    if peer == "open_clip":
        import_open_clip()
        from open_clip.tokenizer import SimpleTokenizer

        return SimpleTokenizer()
    if peer == "tokenizers":
        return fast_tokenizer()
    instant_clip_tokenizer = pytest.importorskip("instant_clip_tokenizer")
    return partial(instant_clip_tokenizer.Tokenizer().tokenize_batch, context_length=77)


def fast_tokenizer() -> Callable[[list[str]], list[list[int]]]:
    """Hugging Face tokenizers with CLIP's vocabulary and the normaliser that transformers gives it: no ftfy."""
    tokenizers = pytest.importorskip("tokenizers")
    oracle = ReferenceTokenizer()
    merges = sorted(oracle.ranks, key=oracle.ranks.__getitem__)
    bpe = tokenizers.models.BPE(
        oracle.ids, merges, end_of_word_suffix="</w>", unk_token="<|endoftext|>"
    )
    fast = tokenizers.Tokenizer(bpe)
    fast.normalizer = tokenizers.normalizers.Sequence(
        [
            tokenizers.normalizers.NFC(),
            tokenizers.normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            tokenizers.normalizers.Lowercase(),
        ]
    )
    words = tokenizers.Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(words, behavior="removed", invert=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return lambda captions: [fast.encode(caption).ids for caption in captions]


def words_alone(row: Iterable[int]) -> list[int]:
    """A row's ids without start, end of text and padding, whether it has them or not."""
    ids = [int(token) for token in row]
    return ids[1 : ids.index(EOT_ID)] if ids[0] == SOT_ID else ids


@pytest.mark.benchmark(group="captions to packed ids, one thread")
@pytest.mark.parametrize("peer", ["reference", "open_clip", "tokenizers", "instant_clip_tokenizer"])
def test_captions(duel, peer):
    captions = texts("texts", CAPTIONS)
    few = captions[:200]
    tokenizer, theirs = load_tokenizer(), peer_tokenizer(peer)
    packed = tokenizer.pack(few)
    rows = np.split(packed.ids, packed.cu_seqlens[1:-1])
    # After this their word caches are warm too.
    assert [words_alone(row) for row in rows] == [words_alone(row) for row in theirs(few)]
    duel(
        partial(tokenizer.pack, captions),
        peer,
        partial(theirs, few),
        items=(len(captions), len(few)),
    )
