import io
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from clipfast.config import PreprocessConfig
from clipfast.errors import InputError
from clipfast.inputs import image_batches, native, preprocess_image
from tests.inputs.oracles import reference_pixels

CONFIG = PreprocessConfig()


def encoded(image, format_name="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, format_name)
    return buffer.getvalue()


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (20 + n, 30, 3), dtype=np.uint8)) for n in range(11)
    ]


def rows(batches):
    """index -> pixels, and the failures."""
    found, failures = {}, []
    for batch in batches:
        assert batch.pixels.shape[0] == len(batch.indices)
        found |= dict(zip(batch.indices, batch.pixels, strict=True))
        failures += batch.failures
    return found, failures


@pytest.mark.parametrize("num_workers", [0, 2, None])
def test_mixed_list_keeps_order(images, num_workers, tmp_path):
    path = tmp_path / "image.png"
    images[0].save(path)
    sources = [
        path,
        str(path),
        encoded(images[2]),
        io.BytesIO(encoded(images[3])),
        images[4],
        np.asarray(images[5]),
    ]
    sources += [torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) for image in images[6:]]
    batches = list(image_batches(sources, CONFIG, 16, batch_size=4, num_workers=num_workers))
    assert [len(batch.indices) for batch in batches] == [4, 4, 3]
    found, failures = rows(batches)
    assert failures == []
    assert list(found) == list(range(11))
    for index, pixels in found.items():
        expected = reference_pixels(images[0 if index == 1 else index], 16)
        np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), expected)


def test_failures_name_their_position_and_leave_neighbours(images):
    good, _ = rows(image_batches(images, CONFIG, 16, batch_size=3))
    broken = list(images)
    broken[1], broken[6], broken[7], broken[8] = None, b"", b"no image", np.zeros((2, 2))
    found, failures = rows(image_batches(broken, CONFIG, 16, batch_size=3))
    assert [(failure.index, failure.code) for failure in failures] == [
        (1, "wrong_type"),
        (6, "unidentified_image"),
        (7, "unidentified_image"),
        (8, "wrong_shape"),
    ]
    assert sorted(found) == [0, 2, 3, 4, 5, 9, 10]
    for index, pixels in found.items():
        assert torch.equal(pixels, good[index])


@pytest.mark.parametrize("built", [True, False], ids=["native", "fallback"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("shape", [(16, 16), (20, 31)])
def test_uint8_batches(layout, shape, built, monkeypatch):
    monkeypatch.setattr(native, "BUILT", native.BUILT and built)
    batch = np.random.default_rng(1).integers(0, 256, (5, *shape, 3), dtype=np.uint8)
    source = batch if layout == "NHWC" else batch.transpose(0, 3, 1, 2)
    for form in (source, torch.from_numpy(source), memoryview_like(source)):
        found, failures = rows(image_batches(form, CONFIG, 16, batch_size=2))
        assert failures == []
        assert list(found) == list(range(5))
        for index, pixels in found.items():
            expected = reference_pixels(Image.fromarray(batch[index]), 16)
            np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), expected)


def test_single_images_through_dlpack():
    pixels = np.random.default_rng(2).integers(0, 256, (20, 31, 3), dtype=np.uint8)
    sources = [memoryview_like(pixels), memoryview_like(pixels.astype(np.int16))]
    found, failures = rows(image_batches(sources, CONFIG, 16, batch_size=2))
    np.testing.assert_array_equal(
        found[0].permute(1, 2, 0).numpy(), reference_pixels(Image.fromarray(pixels), 16)
    )
    assert [(failure.index, failure.code) for failure in failures] == [(1, "wrong_type")]


def memoryview_like(array):
    """An object that is no numpy array or tensor and only speaks DLPack."""

    class Exchange:
        def __dlpack__(self, **options):
            return array.__dlpack__(**options)

        def __dlpack_device__(self):
            return array.__dlpack_device__()

    return Exchange()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_float_batches_are_passed_on(dtype):
    batch = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    found, failures = rows(image_batches(batch, CONFIG, 16, batch_size=2))
    assert failures == []
    assert all(torch.equal(found[index], batch[index]) for index in range(5))
    batch[1, 0, 0, 0] = float("nan")
    batch[2, 1, 2, 3] = float("-inf")
    batch[4, 1, 2, 3] = 255
    for form in (batch, list(batch)):
        found, failures = rows(image_batches(form, CONFIG, 16, batch_size=2))
        assert sorted(found) == [0, 3]
        assert [(f.index, f.code) for f in failures] == [
            (1, "non_finite"),
            (2, "non_finite"),
            (4, "wrong_type"),
        ]
    single, _ = rows(image_batches(batch[0], CONFIG, 16, batch_size=2))
    assert torch.equal(single[0], batch[0])


@pytest.mark.parametrize(
    ("images", "code"),
    [
        ("image.jpg", "wrong_type"),
        (b"\xff\xd8", "wrong_type"),
        (Image.new("RGB", (2, 2)), "wrong_type"),
        ({"a": 1}, "wrong_type"),
        (7, "wrong_type"),
        (np.zeros((16, 16, 3), np.uint8), "wrong_shape"),
        (np.zeros((2, 16, 16, 4), np.uint8), "wrong_shape"),
        (np.zeros((2, 16, 16, 3), np.int64), "wrong_type"),
        (np.zeros((2, 16, 16, 3), np.float32), "wrong_shape"),
    ],
)
def test_refuses_other_batches(images, code):
    with pytest.raises(InputError) as caught:
        image_batches(images, CONFIG, 16, batch_size=2)
    assert caught.value.code == code


def test_empty_inputs_give_no_batches():
    assert list(image_batches([], CONFIG, 16, batch_size=2)) == []
    assert list(image_batches(np.zeros((0, 20, 20, 3), np.uint8), CONFIG, 16, batch_size=2)) == []


def test_generators_are_read_a_bounded_number_ahead(images):
    taken = []

    def source():
        for index in range(100):
            taken.append(index)
            yield images[index % len(images)]

    batches = image_batches(source(), CONFIG, 16, batch_size=4, num_workers=2)
    next(batches)
    assert len(taken) <= 4 + 2 * 4 + 2
    assert any(thread.name.startswith("clipfast-inputs") for thread in threading.enumerate())
    batches.close()
    assert not any(thread.name.startswith("clipfast-inputs") for thread in threading.enumerate())


def test_an_iterator_that_raises_says_how_far_it_came(images):
    def source():
        yield from images[:5]
        raise OSError("disk gone")

    for num_workers in (0, 2):
        with pytest.raises(OSError, match="disk gone") as caught:
            list(image_batches(source(), CONFIG, 16, batch_size=2, num_workers=num_workers))
        assert caught.value.__notes__ == ["raised by the iterable of images after 5 images"]


def test_preprocess_image_is_channels_first(images):
    pixels = preprocess_image(images[0], CONFIG, 16)
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0), reference_pixels(images[0], 16))
