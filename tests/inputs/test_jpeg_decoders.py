"""JPEG by torchcodec and nvImageCodec: asked for by name, close to the exact pixels, as strict; or what to install.

Each library is tested where it is installed; elsewhere its error is.
"""

from __future__ import annotations

import threading
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from clipfast.config import PreprocessConfig
from clipfast.errors import InputError, UnsupportedError
from clipfast.inputs import Decode, DecodeOptions, preprocess_image
from clipfast.inputs.jpeg_decoders import JPEG_DECODERS, jpeg_decoder
from tests.tolerances import JPEG_DECODER_PIXEL_COSINE

CONFIG = PreprocessConfig()
NAMES: tuple[Decode, ...] = ("torchcodec", "nvimagecodec")


def missing(name: Decode) -> UnsupportedError | None:
    """Why the library cannot be used here."""
    try:
        jpeg_decoder(name)
    except UnsupportedError as error:
        return error
    return None


@pytest.fixture(params=NAMES)
def options(request: pytest.FixtureRequest) -> DecodeOptions:
    if missing(request.param) is not None:
        pytest.skip(f"{request.param} is not installed")
    return DecodeOptions(decode=request.param)


def photo(mode: str = "RGB", size: tuple[int, int] = (300, 200)) -> Image.Image:
    coarse = np.random.default_rng(3).integers(0, 256, (8, 9, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)


def jpeg(image: Image.Image, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def test_every_name_says_what_to_install() -> None:
    assert set(JPEG_DECODERS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_library_that_is_missing_is_named_before_anything_is_decoded(name: Decode) -> None:
    error = missing(name)
    if error is None:
        pytest.skip(f"{name} is installed")
    with pytest.raises(UnsupportedError, match=f"decode='{name}' cannot be served.*pip install"):
        DecodeOptions(decode=name)


@pytest.mark.parametrize(
    ("mode", "extra"),
    [("RGB", {"subsampling": 0}), ("RGB", {"subsampling": 2}), ("L", {}), ("CMYK", {})],
    ids=["444", "420", "gray", "cmyk"],
)
def test_pixels_are_close_to_the_exact_ones(
    options: DecodeOptions, mode: str, extra: dict[str, int]
) -> None:
    data = jpeg(photo(mode), **extra)
    exact = preprocess_image(data, CONFIG, 64).astype(float) - 117
    found = preprocess_image(data, CONFIG, 64, options).astype(float) - 117
    cosine = (exact * found).sum() / np.sqrt((exact**2).sum() * (found**2).sum())
    assert cosine > JPEG_DECODER_PIXEL_COSINE


def test_orientation_is_left_alone_unless_asked_for(options: DecodeOptions) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    data = jpeg(photo(), exif=exif)
    upright = DecodeOptions(decode=options.decode, exif_orientation=True)
    for given, exact in (
        (options, DecodeOptions()),
        (upright, DecodeOptions(exif_orientation=True)),
    ):
        found = preprocess_image(data, CONFIG, 64, given).astype(int)
        assert np.abs(found - preprocess_image(data, CONFIG, 64, exact)).mean() < 2


def test_damaged_files_are_refused_as_exact_decoding_refuses_them(options: DecodeOptions) -> None:
    whole = jpeg(photo())
    for damaged in (whole[: len(whole) // 2], whole[:-2], whole[:300]):
        with pytest.raises(InputError) as exact:
            preprocess_image(damaged, CONFIG, 64)
        with pytest.raises(InputError) as found:
            preprocess_image(damaged, CONFIG, 64, options)
        assert found.value.code == exact.value.code


def test_threads_decode_side_by_side(options: DecodeOptions) -> None:
    files = [jpeg(photo(size=(100 + 10 * number, 90))) for number in range(8)]
    expected = [preprocess_image(data, CONFIG, 64, options) for data in files]
    wrong: list[int] = []

    def decode(number: int) -> None:
        rows = (preprocess_image(files[number], CONFIG, 64, options) for _ in range(20))
        wrong.extend(number for row in rows if not np.array_equal(row, expected[number]))

    threads = [threading.Thread(target=decode, args=(number,)) for number in range(len(files))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
