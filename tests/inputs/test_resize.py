import io

import numpy as np
import pytest
import torch
from PIL import Image

from clipfast.errors import ConfigurationError, InputError, UnsupportedError
from clipfast.inputs import device_resize, native, resize, resize_crop
from clipfast.inputs.device_resize import resize_crop_tensor
from clipfast.inputs.geometry import plan_resize
from clipfast.inputs.resize import resize_into
from tests.inputs.broken_files import encoded, photo
from tests.inputs.oracles import FILTERS, reference_pixels

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


@pytest.mark.parametrize("path", ["native", "whole", "region"])
@pytest.mark.parametrize("mode", MODES)
def test_equals_pillow(mode, path, monkeypatch):
    """Through C++, through Pillow's whole resize, and through numpy on the cropped region."""
    monkeypatch.setattr(native, "BUILT", native.BUILT and path == "native")
    monkeypatch.setattr(resize, "_WHOLE_RESIZE_PIXELS", 1 if path == "region" else 4_000_000)
    rng = np.random.default_rng(MODES.index(mode))
    for width, height, size, interpolation, resize_mode in random_cases(12, 400, rng):
        image = random_image(mode, width, height, rng)
        expected = reference_pixels(image, size, interpolation, resize_mode)
        got = resize_crop(image, size, interpolation=interpolation, resize_mode=resize_mode)
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(
            got, expected, err_msg=f"{width}x{height} to {size} {interpolation} {resize_mode}"
        )


@pytest.mark.parametrize("path", ["native", "whole", "region"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "I;16"])
def test_images_that_fill_a_part_of_their_pixels_equal_pillow(mode, path, monkeypatch):
    """As Pillow's resize of a box; the image's own size decides what is cropped."""
    monkeypatch.setattr(native, "BUILT", native.BUILT and path == "native")
    monkeypatch.setattr(resize, "_WHOLE_RESIZE_PIXELS", 1 if path == "region" else 4_000_000)
    rng = np.random.default_rng(12)
    for width, height, size, interpolation, resize_mode in random_cases(25, 300, rng):
        image = random_image(mode, width, height, rng)
        plan = part_of(width, height, size, resize_mode, rng)
        expected = pillow_box(image, plan, interpolation)
        got = np.empty((size, size, 3), np.uint8)
        resize_into(image, plan, interpolation, got)
        np.testing.assert_array_equal(got, expected, err_msg=f"{plan} {interpolation}")


def part_of(width, height, size, resize_mode, rng):
    """The plan of an image of eighths of a pixel that lies within width x height, whose full size is twice as much."""
    left, right = rng.integers(0, 8) / 8, width - rng.integers(0, 8) / 8
    top, bottom = rng.integers(0, 8) / 8, height - rng.integers(0, 8) / 8
    left, top = (side if side < end else 0.0 for side, end in ((left, right), (top, bottom)))
    full = max(1, int(2 * (right - left))), max(1, int(2 * (bottom - top)))
    return plan_resize(*full, size, resize_mode).within((left, top, right, bottom), width, height)


def pillow_box(image, plan, interpolation):
    across, down = plan.horizontal, plan.vertical
    image = image.resize((across.resized, down.resized), FILTERS[interpolation], plan.box)
    right, bottom = across.start + across.length, down.start + down.length
    return np.asarray(image.crop((across.start, down.start, right, bottom)).convert("RGB"))


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


def test_lazily_opened_images_fail_as_input_errors():
    broken = Image.open(io.BytesIO(encoded(photo())[:2000]))
    with pytest.raises(InputError) as caught:
        resize_crop(broken, 8)
    assert caught.value.code == "truncated_image"


def test_refuses_modes_without_rgb_form():
    with pytest.raises(InputError, match="La"):
        resize_crop(Image.new("La", (5, 5)), 8)


@pytest.mark.parametrize(
    "options", [{"size": 0}, {"interpolation": "lanczos"}, {"resize_mode": "longest"}]
)
def test_refuses_unknown_options(options):
    with pytest.raises(ConfigurationError):
        resize_crop(Image.new("RGB", (5, 5)), **{"size": 8, **options})


def isas():
    if not native.BUILT:
        return ["none"]
    from clipfast import _native

    return list(_native.supported_isas())


needs_native = pytest.mark.skipif(not native.BUILT, reason="built without the C++ extension")


def guarded(shape, rng):
    """Random pixels that end where their allocation ends, so that a sanitizer sees a read past them."""
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    return np.where(rng.integers(2), pixels, (pixels > 127) * np.uint8(255)).astype(np.uint8)


@needs_native
@pytest.mark.parametrize("isa", isas())
def test_native_equals_pillow(isa, monkeypatch):
    monkeypatch.setenv("CLIPFAST_ISA", isa)
    rng = np.random.default_rng(7)
    for width, height, size, interpolation, resize_mode in random_cases(150, 700, rng):
        pixels = guarded((height, width, 3) if rng.integers(3) else (height, width), rng)
        expected = reference_pixels(Image.fromarray(pixels), size, interpolation, resize_mode)
        got = resize_crop(pixels, size, interpolation=interpolation, resize_mode=resize_mode)
        case = f"{pixels.shape} to {size} {interpolation} {resize_mode}"
        np.testing.assert_array_equal(got, expected, err_msg=case)


@needs_native
@pytest.mark.parametrize("isa", isas())
def test_native_parts_equal_pillow(isa, monkeypatch):
    monkeypatch.setenv("CLIPFAST_ISA", isa)
    rng = np.random.default_rng(13)
    for width, height, size, interpolation, resize_mode in random_cases(50, 500, rng):
        pixels = guarded((height, width, 3) if rng.integers(3) else (height, width), rng)
        plan = part_of(width, height, size, resize_mode, rng)
        got = np.empty((size, size, 3), np.uint8)
        resize_into(pixels, plan, interpolation, got)
        expected = pillow_box(Image.fromarray(pixels), plan, interpolation)
        np.testing.assert_array_equal(got, expected, err_msg=f"{plan} {interpolation}")


@needs_native
@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("planar", [False, True])
def test_native_batches_write_only_their_rows(isa, planar, monkeypatch):
    monkeypatch.setenv("CLIPFAST_ISA", isa)
    rng = np.random.default_rng(8)
    images = guarded((3, 57, 41, 3), rng)
    plan = plan_resize(41, 57, 19, "shortest")
    guard = np.full((5, 3, 19, 19) if planar else (5, 19, 19, 3), 77, np.uint8)
    native.resize_crop(images, plan, "bicubic", guard[1:4], planar=planar)
    assert (guard[[0, 4]] == 77).all()
    for image, row in zip(images, guard[1:4], strict=True):
        expected = reference_pixels(Image.fromarray(image), 19)
        np.testing.assert_array_equal(row.transpose(1, 2, 0) if planar else row, expected)


@needs_native
@pytest.mark.parametrize("isa", isas())
def test_very_long_sides_are_resized_in_blocks(isa, monkeypatch):
    """More taps than are held at once: 3 million pixels to 5 outputs of 2.4 million taps each."""
    monkeypatch.setenv("CLIPFAST_ISA", isa)
    long = guarded((3_000_000, 3), np.random.default_rng(9))
    for pixels in (long[None], long[:, None].copy()):
        expected = reference_pixels(Image.fromarray(pixels), 5, "bicubic", "squash")
        got = resize_crop(pixels, 5, resize_mode="squash")
        np.testing.assert_array_equal(got, expected)


def test_unknown_instruction_set_is_refused(monkeypatch):
    if not native.BUILT:
        pytest.skip("built without the C++ extension")
    monkeypatch.setattr("clipfast._native.supported_isas", lambda: ("serial",))
    monkeypatch.setenv("CLIPFAST_ISA", "avx512")
    with pytest.raises(UnsupportedError, match="avx512"):
        resize_crop(np.zeros((5, 5, 3), np.uint8), 3)


def test_tensors_are_resized_on_their_device_with_the_same_bits(monkeypatch):
    monkeypatch.setattr(
        device_resize, "_SAMPLES_AT_ONCE", 100_000
    )  # so that some batches take several steps
    rng = np.random.default_rng(10)
    for width, height, size, interpolation, resize_mode in random_cases(25, 300, rng):
        images = guarded((2, height, width, 3), rng)
        plan = plan_resize(width, height, size, resize_mode)
        got = resize_crop_tensor(torch.from_numpy(images), plan, interpolation).numpy()
        for image, pixels in zip(images, got, strict=True):
            expected = reference_pixels(Image.fromarray(image), size, interpolation, resize_mode)
            np.testing.assert_array_equal(pixels.transpose(1, 2, 0), expected)


@pytest.mark.slow
def test_equals_pillow_on_two_thousand_sizes():
    """Sides of 1 to 2,000, targets of 224 to 448, every mode, both filters and both geometries."""
    rng = np.random.default_rng(11)
    different = compared = 0
    for case in range(2000):
        width, height = (int(side) for side in rng.integers(1, 2001, 2))
        size = int(rng.integers(224, 449))
        interpolation, resize_mode = (
            rng.choice(["bicubic", "bilinear"]),
            rng.choice(["shortest", "squash"]),
        )
        mode = MODES[case % len(MODES)] if case % 2 else ["RGB", "L"][case // 2 % 2]
        if max(width / height, height / width) * size**2 > 20_000_000:
            resize_mode = "squash"  # the reference itself would need gigabytes
        image = random_image(mode, width, height, rng)
        expected = reference_pixels(image, size, interpolation, resize_mode)
        got = resize_crop(image, size, interpolation=interpolation, resize_mode=resize_mode)
        different += np.count_nonzero(got != expected)
        compared += got.size
    print(f"{different} of {compared} bytes differ from Pillow's")
    assert different == 0
