"""The resize of the CUDA kernels, run here on a machine that checks every access, and its oracle: Pillow's own bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from clipfast.backends import reference
from tests.cuda.host_library import HostError
from tests.cuda.host_resize import resize_crop, side_taps


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Noise with flat black and white corners: sums that leave 0..255 and must be clipped."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    pixels[: height // 3, : width // 3] = 0
    pixels[-(height // 3) - 1 :, -(width // 3) - 1 :] = 255
    return pixels


def by_pillow(image: torch.Tensor, size: int) -> torch.Tensor:
    """torchvision's Resize(size, BICUBIC) and CenterCrop(size), in Pillow's calls."""
    height, width = image.shape[:2]
    short = min(height, width)
    shape = [size if side == short else int(size * side / short) for side in (width, height)]
    resized = Image.fromarray(np.asarray(image)).resize(shape, Image.Resampling.BICUBIC)
    left, top = (round((side - size) / 2.0) for side in shape)
    cropped = resized.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(cropped)).permute(2, 0, 1)


def check(images: list[torch.Tensor], size: int, **options) -> None:
    out = resize_crop(images, size, **options)
    assert torch.equal(out, torch.stack([by_pillow(image, size) for image in images]))


SHAPES = [(375, 500), (500, 375), (224, 224), (224, 300), (100, 130), (31, 57), (64, 64), (1, 1)]
UNUSUAL = [(900, 200), (200, 900), (3, 500), (500, 3), (2, 3), (1200, 401), (225, 223)]


@pytest.mark.parametrize("shape", SHAPES + UNUSUAL, ids=lambda shape: "x".join(map(str, shape)))
def test_every_bit_is_pillows(shape):
    image, size = picture(*shape), 32 if max(shape) > 600 else 64
    expected = by_pillow(image, size)
    assert torch.equal(reference.resize_crop([image], size)[0], expected)
    out = resize_crop([image], size)
    assert torch.equal(out[0], expected)
    assert torch.equal(out, resize_crop([image], size, reversed_warps=True))


def test_the_size_of_the_published_models():
    image = picture(375, 500)
    expected = by_pillow(image, 224)
    assert torch.equal(reference.resize_crop([image], 224)[0], expected)
    assert torch.equal(resize_crop([image], 224)[0], expected)


@pytest.mark.slow
@pytest.mark.parametrize("size", [336, 378, 448])
def test_larger_sizes_and_smaller_bands(size):
    image = picture(500, 640)
    assert torch.equal(resize_crop([image], size)[0], by_pillow(image, size))


@pytest.mark.slow
def test_random_shapes():
    generator = torch.Generator().manual_seed(5)
    for seed in range(60):
        height, width, size = (int(x) for x in torch.randint(1, 400, (3,), generator=generator))
        size = min(size, 80)
        image = picture(height, width, seed)
        assert torch.equal(resize_crop([image], size)[0], by_pillow(image, size)), (
            height,
            width,
            size,
        )


def test_a_ragged_batch_of_views():
    whole = picture(120, 200)
    images = [picture(50, 40, 1), whole[10:90, 30:130], picture(33, 90, 2)]
    out = resize_crop(images, 24)
    for image, row in zip(images, out, strict=True):
        assert torch.equal(row, by_pillow(image.contiguous(), 24))
    assert torch.equal(out, reference.resize_crop(images, 24))


def test_no_images():
    assert resize_crop([], 32).shape == (0, 3, 32, 32)
    assert reference.resize_crop([], 32).shape == (0, 3, 32, 32)


def test_a_long_thin_image_stays_within_memory():
    """1 x 60000: resized whole it would take 9 GB."""
    image = picture(1, 20_000)
    assert torch.equal(resize_crop([image], 16), reference.resize_crop([image], 16))


def test_taps_sum_to_one_and_match_float64():
    for side, other in ((500, 375), (375, 500), (64, 64), (10, 8), (4000, 3000)):
        for first, weights in side_taps(side, other, 32):
            assert 0 <= first <= side - len(weights)
            assert abs(sum(weights) - 2**22) <= len(weights)


def test_bands_shrink_where_shared_memory_is_small():
    image = picture(60, 90)
    expected = resize_crop([image], 48)
    assert torch.equal(resize_crop([image], 48, shared_limit=48 * 3 * (16 + 4 * 2)), expected)


FAULTS = {
    "rounded down": ("cuda/resize_loop.h", "share < 0.0 ? -0.5 : 0.5", "share < 0.0 ? -0.5 : 0.0"),
    "not clipped between the passes": (
        "cuda/resize_loop.h",
        "return static_cast<uint8_t>(min(max(sum >> kWeightBits, 0), 255));",
        "return static_cast<uint8_t>(sum >> kWeightBits);",
    ),
    "always horizontal first": (
        "cuda/resize_params.h",
        "rows_lost > 2 * columns_lost && image.resized[1] < height",
        "false && rows_lost > columns_lost",
    ),
    "no barrier between the passes": (
        "cuda/resize_loop.h",
        "            m.sync();\n            add_second_axis",
        "            add_second_axis",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_seeded_fault_is_seen(fault):
    images = [picture(900, 200), picture(20, 30)]
    with pytest.raises((AssertionError, HostError)):
        check(images, 32, changes=(FAULTS[fault],))
