"""Linear layers and patch embedding on packed weights against float64."""

from __future__ import annotations

import pytest
import torch

from clipfast.backends.cpu_linear import prepare
from clipfast.backends.cpu_towers import TowerKernels
from clipfast.backends.reference import REFERENCE, with_row_options
from clipfast.errors import InputError
from clipfast.parameters import Linear
from tests.kernels.parity import DTYPES, Operands, assert_parity
from tests.native.kernels import needs_native

pytestmark = needs_native


@pytest.fixture
def draw() -> Operands:
    return Operands(torch.device("cpu"))


def _assert_linear(towers: TowerKernels, x, weight, bias, **options) -> None:
    packed = prepare(Linear(weight, bias))
    residual, scale = options.pop("residual", None), options.pop("row_scale", None)
    actual = with_row_options(towers.linear)(
        x, packed.weight, packed.bias, residual=residual, row_scale=scale, **options
    )
    plain = REFERENCE.linear(x, weight, bias, residual=residual, row_scale=scale, **options)
    wide = [None if t is None else t.double() for t in (x, weight, bias, residual, scale)]
    exact = REFERENCE.linear(*wide[:3], residual=wide[3], row_scale=wide[4], **options)
    assert_parity(actual, exact, plain)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(50, 64, 96), (1, 33, 17), (13, 7, 1), (100, 192, 64)])
def test_products(towers, draw, dtype, shape) -> None:
    rows, inner, outer = shape
    x, weight = draw(rows, inner, dtype=dtype), draw(outer, inner, dtype=dtype, std=inner**-0.5)
    bias, residual = draw(outer, dtype=dtype), draw(rows, outer)
    _assert_linear(towers, x, weight, bias)
    _assert_linear(towers, x, weight, None, residual=residual)
    _assert_linear(towers, x, weight, bias, activation="silu", residual=residual)


@pytest.mark.parametrize("activation", [None, "silu", "gelu", "quick_gelu", "relu"])
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
def test_every_epilogue(towers, draw, activation, scaled) -> None:
    x, weight, bias = draw(50, 64), draw(96, 64, std=0.125), draw(96)
    row_scale = draw(50).abs() if scaled else None
    _assert_linear(towers, x, weight, bias, activation=activation, row_scale=row_scale)


def test_row_statistics(towers, draw) -> None:
    y, squares = with_row_options(towers.linear)(
        draw(5, 8), draw(9, 8), None, return_row_stats=True
    )
    assert torch.equal(squares, y.square().sum(dim=1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_two_parts_of_a_packed_layer(draw, dtype) -> None:
    layer = Linear(draw(96, 64, dtype=dtype), draw(96, dtype=dtype))
    split = prepare(layer, 32)
    x = draw(7, 64, dtype=dtype)
    for rows in ((0, 32), (32, None)):
        part, plain = split.rows(*rows), layer.rows(*rows)
        ours = TowerKernels("serial").linear(x, part.weight, part.bias)
        torch.testing.assert_close(ours, REFERENCE.linear(x, plain.weight, plain.bias))
    assert split.weight.shape == layer.weight.shape
    assert split.weight.dtype == dtype


def test_no_rows(towers, draw) -> None:
    packed = prepare(Linear(draw(96, 64), draw(96)))
    y = towers.linear(torch.empty(0, 64), packed.weight, packed.bias, residual=torch.empty(0, 96))
    assert y.shape == (0, 96)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("patch", [4, 14, 32])
def test_patches_of_bytes(towers, draw, dtype, patch) -> None:
    side, width = patch * 3, 24
    pixels = draw.bytes(2, 3, side, side)
    weight = draw(width, 3 * patch * patch, dtype=dtype, std=1 / 255 / patch)
    tensors = (weight, draw(width, dtype=dtype), draw(width), draw(9, width))
    packed = prepare(Linear(weight, tensors[1]))
    plain = REFERENCE.patch_embed(pixels, *tensors)
    exact = REFERENCE.patch_embed(pixels, *(t.double() for t in tensors))
    for layout in (
        pixels,
        pixels.contiguous(memory_format=torch.channels_last),
        draw.bytes(0, 3, side, side),
    ):
        actual = towers.patch_embed(layout, packed.weight, *tensors[1:])
        assert_parity(actual, exact[: len(layout)], plain)
    bordered = torch.nn.functional.pad(pixels, (1, 2, 3, 4))[:, :, 3:-4, 1:-2]
    assert torch.equal(
        towers.patch_embed(bordered, packed.weight, *tensors[1:]),
        towers.patch_embed(pixels, packed.weight, *tensors[1:]),
    )


def test_pixels_that_are_no_images_are_refused(towers, draw) -> None:
    with pytest.raises(InputError, match=r"patch_embed reads \(B, 3, R, R\) on cpu"):
        towers.patch_embed(draw.bytes(2, 1, 8, 8), draw(4, 48), None, draw(4), draw(4, 4))
