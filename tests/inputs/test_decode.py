"""Decoded pixels against Pillow and torchvision, fast decoding, and EXIF orientation."""

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from benchmarks.peers.modules import make_torchvision_importable
from clipfast.config import PreprocessConfig
from clipfast.inputs import DecodeOptions, jpeg, native, preprocess_image
from tests.inputs.broken_files import encoded, photo, with_adobe_transform
from tests.inputs.oracles import pixel_cosine, reference_pixels
from tests.tolerances import FAST_DECODE_PIXEL_COSINE

CONFIG = PreprocessConfig()
FAST = DecodeOptions(decode="fast")
UPRIGHT = DecodeOptions(exif_orientation=True)


def pixels_of(data, size=48, options=None):
    return preprocess_image(data, CONFIG, size, options or DecodeOptions()).transpose(1, 2, 0)


def pillow_pixels(data, size=48):
    with Image.open(io.BytesIO(data)) as image:
        return reference_pixels(image, size)


@pytest.mark.parametrize("through", ["simplejpeg", "pillow"])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "options",
    [
        {"quality": 30},
        {"quality": 95, "subsampling": 0},
        {"subsampling": 1},
        {"subsampling": 2, "progressive": True},
        {"optimize": True, "restart_marker_blocks": 3},
        {"keep_rgb": True},
    ],
    ids=str,
)
def test_jpeg_equals_pillow(options, mode, through, monkeypatch):
    monkeypatch.setattr(jpeg, "equals_pillow", lambda: through == "simplejpeg")
    for width, height in ((211, 157), (16, 16), (7, 3), (1, 1)):
        data = encoded(photo(width, height).convert(mode), **options)
        np.testing.assert_array_equal(pixels_of(data), pillow_pixels(data))


@pytest.mark.parametrize("transform", [0, 2], ids=["CMYK", "YCCK"])
@pytest.mark.parametrize("options", [{}, {"icc_profile": b"broken" * 100}], ids=["plain", "icc"])
def test_four_channel_jpeg_equals_pillow(transform, options):
    """Adobe's files hold inverted CMYK, or YCCK."""
    data = with_adobe_transform(encoded(photo(97, 61).convert("CMYK"), **options), transform)
    np.testing.assert_array_equal(pixels_of(data), pillow_pixels(data))


@pytest.mark.parametrize("transparency", [3, bytes(range(256))], ids=["index", "table"])
@pytest.mark.parametrize("format_name", ["PNG", "GIF"])
def test_transparent_palettes_equal_pillow(format_name, transparency):
    image = photo(61, 83).convert("P")
    data = encoded(image, format_name, transparency=transparency if format_name == "PNG" else 3)
    np.testing.assert_array_equal(pixels_of(data), pillow_pixels(data))


def test_simplejpeg_is_used_because_it_equals_pillow(monkeypatch, caplog):
    assert jpeg.equals_pillow.__wrapped__()
    assert caplog.messages == []
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *given: decode(*given) ^ 1)
    assert not jpeg.equals_pillow.__wrapped__()
    assert "Pillow decodes JPEG" in caplog.text


@pytest.mark.parametrize("format_name", ["PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM"])
def test_other_formats_equal_pillow(format_name):
    for mode in ("1", "L", "RGB", "RGBA", *(["P"] if format_name not in ("PPM", "AVIF") else [])):
        data = encoded(photo(61, 83).convert(mode), format_name)
        np.testing.assert_array_equal(pixels_of(data), pillow_pixels(data))


@pytest.mark.parametrize(
    "options",
    [
        {"big_tiff": True},
        {"tile_size": (16, 16)},
        *({"compression": name} for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")),
    ],
    ids=str,
)
def test_tiff_variants_equal_pillow(options):
    data = encoded(photo(61, 83), "TIFF", **options)
    np.testing.assert_array_equal(pixels_of(data), pillow_pixels(data))


def test_sixteen_bit_and_float_images_equal_pillow():
    rng = np.random.default_rng(0)
    levels = Image.fromarray(rng.integers(0, 65536, (50, 40), dtype=np.uint16))
    floats = np.array([[0, 1.5, 300], [np.nan, -4, 90], [7, 8, 9]], np.float32)
    for data in (
        encoded(levels, "PNG"),
        encoded(levels, "TIFF"),
        encoded(Image.fromarray(floats), "TIFF"),
    ):
        np.testing.assert_array_equal(pixels_of(data), pillow_pixels(data))
    assert (
        pixels_of(encoded(levels, "PNG")).mean() > 250
    )  # as in the reference, levels above 255 are white


def test_equals_torchvision():
    """The reference transform itself, on the sizes that published models take."""
    make_torchvision_importable()
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    for size in (224, 240, 336):
        transform = Compose([Resize(size, InterpolationMode.BICUBIC), CenterCrop(size)])
        for width, height in ((640, 427), (427, 640), (225, 223), (300, 901), (901, 300), (57, 41)):
            data = encoded(photo(width, height))
            expected = np.asarray(transform(Image.open(io.BytesIO(data))).convert("RGB"))
            np.testing.assert_array_equal(pixels_of(data, size), expected)


def test_fast_decoding_is_close_and_exact_below_twice_the_target():
    data = encoded(photo(1600, 1200))
    exact, fast = pixels_of(data, 224), pixels_of(data, 224, FAST)
    assert np.array_equal(exact, pillow_pixels(data, 224))
    assert not np.array_equal(exact, fast)
    cosine = pixel_cosine(exact, fast)
    print(f"cosine of pixels, 1600 x 1200 to 224 from a half-size decode: {cosine:.6f}")
    assert cosine >= FAST_DECODE_PIXEL_COSINE
    small = encoded(photo(440, 440))
    assert np.array_equal(pixels_of(small, 224, FAST), pixels_of(small, 224))
    png = encoded(photo(1600, 1200), "PNG")
    assert np.array_equal(pixels_of(png, 224, FAST), pixels_of(png, 224))


@pytest.mark.parametrize(
    ("size", "target"),
    [((1920, 1281), 224), ((3000, 2003), 224), ((3840, 2561), 224), ((961, 643), 112)],
    ids=str,
)
def test_fast_decoding_of_sides_that_the_scale_does_not_divide(size, target):
    """1281 rows decode to 481 at 3/8, of which the last is three eighths image: taken for whole, it moves the rest."""
    data = encoded(photo(*size))
    cosine = pixel_cosine(pixels_of(data, target), pixels_of(data, target, FAST))
    print(f"cosine of pixels, {size} to {target}: {cosine:.6f}")
    assert cosine >= FAST_DECODE_PIXEL_COSINE


@pytest.mark.parametrize("resize_mode", ["shortest", "squash"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_fast_decoding_turns_the_partial_row_with_the_image(orientation, resize_mode):
    config = PreprocessConfig(resize_mode=resize_mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(961, 643), exif=exif)
    exact, fast = (
        preprocess_image(data, config, 112, DecodeOptions(exif_orientation=True, decode=decode))
        for decode in ("exact", "fast")
    )
    assert pixel_cosine(exact, fast) >= FAST_DECODE_PIXEL_COSINE


def test_fast_decoding_never_enlarges():
    """4 columns are fewer than twice the target, so all 210 rows are decoded too."""
    data = encoded(photo(4, 210))
    np.testing.assert_array_equal(pixels_of(data, options=FAST), pixels_of(data))


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "pil"])
@pytest.mark.parametrize("options", [UPRIGHT, DecodeOptions(exif_orientation=True, decode="fast")])
@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation(orientation, options, format_name):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(60, 90), "JPEG" if format_name == "pil" else format_name, exif=exif)
    source = Image.open(io.BytesIO(data)) if format_name == "pil" else data
    with Image.open(io.BytesIO(data)) as image:
        ignored, upright = (
            reference_pixels(image, 48),
            reference_pixels(ImageOps.exif_transpose(image), 48),
        )
    np.testing.assert_array_equal(pixels_of(source), ignored)
    np.testing.assert_array_equal(pixels_of(source, options=options), upright)
    assert np.array_equal(ignored, upright) == (orientation not in range(2, 9))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_metadata_never_fails_decoding():
    rng = np.random.default_rng(0)
    plain = pixels_of(encoded(photo()))
    for metadata in (
        b"Exif\0\0" + rng.bytes(60_000),
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM",
    ):
        data = encoded(photo(), exif=metadata)
        for options in (DecodeOptions(), UPRIGHT):
            np.testing.assert_array_equal(pixels_of(data, options=options), plain)
    data = encoded(photo(), icc_profile=b"broken" * 1000)
    np.testing.assert_array_equal(pixels_of(data), plain)
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + b"<a>" * 10_000
    data = encoded(photo(), xmp=xmp)
    np.testing.assert_array_equal(pixels_of(data, options=UPRIGHT), plain)


def test_fallback_without_the_native_module(monkeypatch):
    data = encoded(photo(300, 200))
    large = encoded(photo(901, 703))
    with_native = pixels_of(data, 64), pixels_of(large, 64, FAST)
    monkeypatch.setattr(native, "BUILT", False)
    np.testing.assert_array_equal(pixels_of(data, 64), with_native[0])
    np.testing.assert_array_equal(pixels_of(large, 64, FAST), with_native[1])
