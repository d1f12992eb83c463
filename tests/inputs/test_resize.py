import numpy as np
import pytest
from PIL import Image

from clipfast.errors import ConfigurationError, InputError
from clipfast.inputs import resize, resize_crop
from tests.inputs.oracles import reference_pixels

MODES = [
    "RGB",
    "L",
    "1",
    "P",
    "PA",
    "RGBA",
    "RGBa",
    "RGBX",
    "LA",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "I;16",
    "I;16B",
    "F",
]


def random_image(mode, width, height, rng):
    if mode == "F":
        return Image.fromarray((rng.standard_normal((height, width)) * 200).astype("f4"))
    if mode == "I":
        return Image.fromarray(rng.integers(-300, 600, (height, width)).astype("i4"))
    if mode == "1":
        return Image.fromarray(rng.integers(0, 2, (height, width)).astype(bool))
    sample_bytes = 2 if mode.startswith("I;16") else len(Image.new(mode, (1, 1)).getbands())
    data = rng.integers(0, 256, width * height * sample_bytes, dtype=np.uint8).tobytes()
    image = Image.frombytes(mode, (width, height), data)
    if mode in ("P", "PA"):
        image.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
    return image


def random_cases(count, longest, rng):
    """(width, height, size, interpolation, resize_mode), with many narrow images: they meet both pass orders."""
    for _ in range(count):
        width, height = (int(side) for side in rng.integers(1, longest + 1, 2))
        narrow = rng.integers(4)
        if narrow == 0:
            width = width % 9 + 1
        elif narrow == 1:
            height = height % 9 + 1
        size = int(rng.integers(1, 300))
        yield (
            width,
            height,
            size,
            *rng.choice(["bicubic", "bilinear"], 1),
            *rng.choice(["shortest", "squash"], 1),
        )


@pytest.mark.parametrize("whole_resize_pixels", [4_000_000, 1], ids=["whole", "region"])
@pytest.mark.parametrize("mode", MODES)
def test_equals_pillow(mode, whole_resize_pixels, monkeypatch):
    monkeypatch.setattr(resize, "_WHOLE_RESIZE_PIXELS", whole_resize_pixels)
    rng = np.random.default_rng(MODES.index(mode))
    for width, height, size, interpolation, resize_mode in random_cases(12, 400, rng):
        image = random_image(mode, width, height, rng)
        expected = reference_pixels(image, size, interpolation, resize_mode)
        got = resize_crop(image, size, interpolation=interpolation, resize_mode=resize_mode)
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(
            got, expected, err_msg=f"{width}x{height} to {size} {interpolation} {resize_mode}"
        )


@pytest.mark.parametrize("shape", [(33, 47, 3), (3, 33, 47), (33, 47)])
def test_arrays_equal_their_pil_image(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    image = Image.fromarray(pixels.transpose(1, 2, 0) if shape[0] == 3 else pixels)
    np.testing.assert_array_equal(resize_crop(pixels, 24), reference_pixels(image, 24))
    np.testing.assert_array_equal(
        resize_crop(pixels[::-1], 24), resize_crop(pixels[::-1].copy(), 24)
    )


@pytest.mark.parametrize(
    ("array", "code"),
    [
        (np.zeros((4, 4, 3)), "wrong_type"),
        (np.zeros((4, 4, 3), bool), "wrong_type"),
        (np.zeros((4, 4, 4), np.uint8), "wrong_shape"),
        (np.zeros((0, 4, 3), np.uint8), "wrong_shape"),
        (np.zeros(4, np.uint8), "wrong_shape"),
        (np.array([None]), "wrong_type"),
        (7, "wrong_type"),
    ],
)
def test_refuses_other_arrays(array, code):
    with pytest.raises(InputError) as caught:
        resize_crop(array, 8)
    assert caught.value.code == code


def test_refuses_modes_without_rgb_form():
    with pytest.raises(InputError, match="La"):
        resize_crop(Image.new("La", (5, 5)), 8)


@pytest.mark.parametrize(
    "options", [{"size": 0}, {"interpolation": "lanczos"}, {"resize_mode": "longest"}]
)
def test_refuses_unknown_options(options):
    with pytest.raises(ConfigurationError):
        resize_crop(Image.new("RGB", (5, 5)), **{"size": 8, **options})
