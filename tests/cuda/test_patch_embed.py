"""The patch embedding of the CUDA kernels, run here on a machine that checks every access, against float64."""

from __future__ import annotations

import pytest
import torch

from clipfast.backends import reference
from tests.cuda.host_library import HostError
from tests.cuda.host_patch_embed import patch_embed
from tests.cuda.parity import assert_parity

BF16, FP16 = torch.bfloat16, torch.float16


def arguments(images, size, patch, width, dtype=BF16, wide=torch.float32, seed=0):
    """Pixels and folded parameters of the size that checkpoints have: weights near 1e-4, positions near 1."""
    generator = torch.Generator().manual_seed(seed)
    grid, depth = size // patch, 3 * patch * patch
    pixels = torch.randint(0, 256, (images, 3, size, size), generator=generator, dtype=torch.uint8)
    weight = (torch.randn(width, depth, generator=generator) / (64 * depth**0.5)).to(dtype)
    bias = torch.randn(width, generator=generator).to(wide)
    class_row = torch.randn(width, generator=generator).to(wide)
    positions = torch.randn(grid * grid, width, generator=generator).to(wide)
    return pixels, weight, bias, class_row, positions


def check(pixels, weight, bias, class_row, positions, **options) -> None:
    out = patch_embed(pixels, weight, bias, class_row, positions, **options)
    rest = (bias, class_row, positions)
    again = patch_embed(pixels, weight, *rest, reversed_warps=True, **options)
    assert torch.equal(out, again)
    cast = [x if x is None else x.to(weight.dtype) for x in rest]
    plain = reference.patch_embed(pixels, weight, *cast)
    truth = reference.patch_embed(
        pixels, weight.double(), *(x if x is None else x.double() for x in rest)
    )
    assert_parity(out, plain, truth)


@pytest.mark.parametrize("dtype", [BF16, FP16], ids=["bf16", "fp16"])
@pytest.mark.parametrize(
    ("images", "size", "patch", "width"),
    [(1, 224, 32, 768), (3, 96, 32, 64), (1, 224, 16, 128), (1, 224, 14, 136), (2, 42, 14, 8)],
)
def test_published_patches(images, size, patch, width, dtype):
    check(*arguments(images, size, patch, width, dtype))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "patch", "width"), [(336, 14, 1024), (378, 14, 128), (240, 16, 896), (224, 14, 1280)]
)
def test_large_images(size, patch, width):
    check(*arguments(1, size, patch, width))


@pytest.mark.parametrize("patch", [14, 32])
def test_parameters_of_either_width_and_no_bias(patch):
    pixels, weight, bias, class_row, positions = arguments(2, 3 * patch, patch, 24, wide=BF16)
    check(pixels, weight, None, class_row, positions.float())
    check(pixels, weight, bias.float(), class_row, positions)


def test_pixels_of_every_value_are_exact():
    """A weight of one: the token is the pixel, which both types hold exactly up to 256."""
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    pixels = values.expand(1, 3, 16, 16).contiguous()
    weight = torch.zeros(256, 768, dtype=BF16)
    weight[:, :256] = torch.eye(256)
    zeros = torch.zeros(256)
    out = patch_embed(pixels, weight, None, zeros, zeros[None])
    assert out[0, 1].tolist() == list(range(256))


def test_strided_images():
    wide = arguments(2, 64, 16, 16)
    check(wide[0][:, :, 16:48, 32:64], wide[1], wide[2], wide[3], wide[4][:4])


def test_sizes_that_no_patch_divides_drop_the_rest():
    pixels, weight, bias, class_row, positions = arguments(2, 50, 14, 16)
    check(pixels, weight, bias, class_row, positions)


def test_an_image_does_not_depend_on_its_neighbours():
    pixels, *rest = arguments(5, 96, 32, 64)
    together = patch_embed(pixels, *rest)
    for i in range(5):
        assert torch.equal(patch_embed(pixels[i : i + 1], *rest)[0], together[i])


FAULTS = {
    "channels in the wrong order": (
        "cuda/patch_embed_loop.h",
        "const int channel = depth / (kPatch * kPatch)",
        "const int channel = 2 - depth / (kPatch * kPatch)",
    ),
    "positions one row late": (
        "cuda/patch_embed_loop.h",
        "static_cast<int64_t>(cell) * width + column",
        "static_cast<int64_t>(cell == 0 ? 0 : cell - 1) * width + column",
    ),
    "pixels as constants": (
        "cuda/patch_embed_loop.h",
        "m.load(reinterpret_cast<const Load*>",
        "m.load_constant(reinterpret_cast<const Load*>",
    ),
    "one buffer instead of two": (
        "cuda/patch_embed_loop.h",
        "return at_ + step % 2 * kSliceBytes;",
        "return at_ + step % 1 * kSliceBytes;",
    ),
}


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(name, marks=[] if name == "positions one row late" else pytest.mark.slow)
        for name in FAULTS
    ],
)
def test_a_seeded_fault_is_seen(fault):
    with pytest.raises((AssertionError, HostError)):
        check(*arguments(1, 64, 16, 16), changes=(FAULTS[fault],))
