"""Random damage to files and strings, for minutes: pixels, ids or an InputError, and nothing else. Memory stays flat.

A crash of native code ends the run, a hang meets the time limit of one input, and a foreign exception fails.
"""

import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from clipfast.config import PreprocessConfig
from clipfast.errors import InputError
from clipfast.inputs import DecodeOptions, load_tokenizer, preprocess_image
from tests.inputs.broken_files import encoded, jpeg_of_many_scans, photo
from tests.inputs.test_tokenizer_parity import fuzzed_texts

CONFIG = PreprocessConfig()
SMALL = DecodeOptions(max_pixels=4_000_000)
WITH_EXIF = DecodeOptions(max_pixels=4_000_000, exif_orientation=True, decode="fast")
SECONDS_OF_ONE_INPUT = 20


def seeds():
    """Small valid files of every format, with the features that have their own code paths."""
    image, palette = photo(60, 40), photo(60, 40).convert("P")
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "text"
    animation = {"save_all": True, "append_images": [photo(60, 40, seed) for seed in (1, 2)]}
    return [
        encoded(image, exif=exif),
        encoded(image, progressive=True, subsampling=0),
        encoded(image.convert("L")),
        encoded(image.convert("CMYK")),
        jpeg_of_many_scans(5),
        encoded(image, "PNG"),
        encoded(palette, "PNG", transparency=3),
        encoded(image.convert("RGBA"), "PNG", **animation),
        encoded(image.convert("I;16"), "PNG"),
        encoded(image, "WEBP", lossless=True),
        encoded(image.convert("RGBA"), "WEBP", exif=exif),
        encoded(image, "WEBP", **animation),
        encoded(palette, "GIF", **animation),
        *(
            encoded(image, "TIFF", compression=name)
            for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg")
        ),
        encoded(image.convert("1"), "TIFF", compression="group4"),
        encoded(image, "TIFF", big_tiff=True, tile_size=(16, 16)),
        encoded(image, "AVIF"),
        encoded(palette, "BMP"),
        encoded(image, "PPM"),
    ]


def damaged(data, rng):
    """Flip, overwrite, cut, repeat or move bytes; headers are hit as often as the much longer data."""
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        reach = len(data) if rng.random() < 0.5 else min(len(data), 120)
        at = int(rng.integers(reach))
        kind = rng.integers(6)
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[at : at + 4] = rng.choice(
                [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\x80"]
            )
        elif kind == 2:
            data[at] = int(rng.integers(256))
        elif kind == 3 and len(data) > 40:
            del data[at : at + int(rng.integers(1, 60))]
        elif kind == 4:
            data[at:at] = data[at : at + int(rng.integers(1, 200))]
        elif rng.random() < 0.3:
            del data[max(at, 1) :]
        if not data:
            return b""
    return bytes(data)


def fuzz_images(seconds, seed):
    """(inputs tried, how many decoded)."""
    rng = np.random.default_rng(seed)
    sources = seeds()
    end, tried, decoded = time.monotonic() + seconds, 0, 0
    while time.monotonic() < end:
        data = damaged(sources[int(rng.integers(len(sources)))], rng)
        start = time.monotonic()
        try:
            pixels = preprocess_image(data, CONFIG, 32, WITH_EXIF if tried % 3 == 0 else SMALL)
        except InputError as error:
            pixels = None
            message = error.message
            assert message
            assert len(message) < 1000
        assert time.monotonic() - start < SECONDS_OF_ONE_INPUT, data.hex()
        decoded += pixels is not None
        tried += 1
    return tried, decoded


def fuzz_texts(seconds, seed):
    """Strings of every code point, lone surrogates included; returns how many were tried."""
    rng = np.random.default_rng(seed)
    tokenizer = load_tokenizer()
    end, tried = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        texts = list(fuzzed_texts(200, int(rng.integers(2**60))))
        texts = ["".join(rng.permutation(list(text * int(rng.integers(1, 4))))) for text in texts]
        packed = tokenizer.pack(texts, truncate=True)
        padded = tokenizer.tokenize(texts, truncate=True)
        assert ((packed.ids >= 0) & (packed.ids < 49408)).all()
        assert (packed.ids[packed.cu_seqlens[1:] - 1] == 49407).all()
        assert (padded[:, 0] == 49406).all()
        position = int(rng.integers(200))
        texts[position] += chr(int(rng.integers(0xD800, 0xE000)))
        with pytest.raises(InputError) as caught:
            tokenizer.pack(texts, truncate=True)
        assert (caught.value.code, caught.value.index) == ("invalid_text", position)
        tried += 200
    return tried


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::ResourceWarning")
def test_a_few_seconds_of_damaged_images():
    tried, decoded = fuzz_images(4, seed=0)
    assert 0 < decoded < tried


def test_a_second_of_fuzzed_texts():
    assert fuzz_texts(1, seed=0) >= 200


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::ResourceWarning")
def test_eight_minutes_of_damaged_images():
    tried, decoded = fuzz_images(480, seed=time.time_ns())
    print(f"{tried} damaged images, {decoded} decoded")
    assert 0 < decoded < tried


@pytest.mark.slow
def test_two_minutes_of_fuzzed_texts():
    print(f"{fuzz_texts(120, seed=time.time_ns())} strings")


MEMORY = """
import ctypes, gc, sys
import psutil
from clipfast.config import PreprocessConfig
from clipfast.inputs import image_batches
from tests.inputs.broken_files import encoded, photo

def held():
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps for later is no leak
    return psutil.Process().memory_info().rss / 2**20

count = int(sys.argv[1])
gc.disable()  # a cycle that holds a batch is a leak too, until a collection happens to come by
sources = [encoded(photo(90 + n, 70, n)) for n in range(40)] + [encoded(photo(90, 70), "PNG"), b"no image"]
stream = (sources[n % len(sources)] for n in range(count))
seen, early = 0, None
for batch in image_batches(stream, PreprocessConfig(), 224, batch_size=20, num_workers=2):
    seen += len(batch.indices) + len(batch.failures)
    if early is None and seen >= count // 4:
        early = held()
print(seen, held() - early)
"""


def memory_growth(count):
    """MB between a quarter and the end of `count` images, one in 42 of them bad."""
    output = subprocess.run(
        [sys.executable, "-c", MEMORY, str(count)], check=True, capture_output=True, text=True
    ).stdout
    seen, growth = output.split()
    assert int(seen) == count
    print(f"memory grew by {growth} MB over {count * 3 // 4} images")
    return float(growth)


def test_memory_is_flat_over_two_thousand_images():
    assert memory_growth(2000) < 4


@pytest.mark.slow
def test_memory_is_flat_over_fifty_thousand_images():
    assert memory_growth(50_000) < 4
