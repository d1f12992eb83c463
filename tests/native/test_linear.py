"""Linear layers and patch embedding on packed weights against float64."""

from __future__ import annotations

import pytest
import torch

from clipfast.backends import cpu_linear, cpu_panels
from clipfast.backends.cpu_panels import PanelWeight
from clipfast.backends.cpu_towers import TowerKernels
from clipfast.backends.reference import REFERENCE, with_row_options
from clipfast.errors import InputError
from clipfast.parameters import Linear
from tests.kernels.parity import DTYPES, Operands, assert_parity, strided
from tests.native.kernels import has_panels, needs_native, needs_panels
from tests.tolerances import CPU_GELU

pytestmark = needs_native


@pytest.fixture
def draw() -> Operands:
    return Operands(torch.device("cpu"))


@pytest.fixture(params=[cpu_linear, cpu_panels], ids=["onednn", "panels"])
def prepare(request: pytest.FixtureRequest):
    """Both ways to pack a layer; panels where this processor has what multiplies them."""
    if request.param is cpu_panels and not has_panels():
        pytest.skip("this processor lacks what multiplies panels")
    return request.param.prepare


def _assert_linear(towers: TowerKernels, prepare, x, weight, bias, **options) -> None:
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
@pytest.mark.parametrize(
    "shape", [(50, 64, 96), (1, 33, 17), (13, 7, 1), (100, 192, 64), (7, 588, 130)]
)
def test_products(towers, prepare, draw, dtype, shape) -> None:
    rows, inner, outer = shape
    x, weight = draw(rows, inner, dtype=dtype), draw(outer, inner, dtype=dtype, std=inner**-0.5)
    bias, residual = draw(outer, dtype=dtype), draw(rows, outer)
    _assert_linear(towers, prepare, x, weight, bias)
    _assert_linear(towers, prepare, x, weight, None, residual=residual)
    _assert_linear(towers, prepare, x, weight, bias, activation="silu", residual=residual)


@pytest.mark.parametrize("activation", [None, "silu", "gelu", "quick_gelu", "relu"])
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
def test_every_epilogue(towers, prepare, draw, activation, scaled) -> None:
    x, weight, bias = draw(50, 64), draw(96, 64, std=0.125), draw(96)
    row_scale = draw(50).abs() if scaled else None
    _assert_linear(towers, prepare, x, weight, bias, activation=activation, row_scale=row_scale)


@needs_panels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("activation", [None, "silu", "gelu"])
def test_rows_through_panels_depend_on_nothing_else(draw, dtype, activation) -> None:
    """The same bits beside any number of other rows, on any number of threads, from rows with gaps between them."""
    layer = cpu_panels.prepare(Linear(draw(130, 64, dtype=dtype), draw(130, dtype=dtype)))
    assert isinstance(layer.weight, PanelWeight)
    x, residual = draw(601, 64, dtype=dtype), draw(601, 130)
    towers = TowerKernels("avx512_bf16")

    def rows(part: slice, **options) -> torch.Tensor:
        return towers.linear(
            strided(x)[part], layer.weight, layer.bias, residual=residual[part], **options
        )

    whole = rows(slice(None), activation=activation)
    for part in (slice(0, 1), slice(3, 9), slice(300, 601)):
        assert torch.equal(rows(part, activation=activation), whole[part])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(5)
        assert torch.equal(rows(slice(None), activation=activation), whole)
    finally:
        torch.set_num_threads(threads)


@needs_panels
def test_panels_refuse_what_they_would_misread(draw) -> None:
    layer = cpu_panels.prepare(Linear(draw(96, 64, dtype=torch.bfloat16)))
    linear, x = TowerKernels("avx512_bf16").linear, draw(5, 64, dtype=torch.bfloat16)
    with pytest.raises(InputError, match=r"linear needs torch\.bfloat16, as its weight"):
        linear(x.float(), layer.weight, None)
    with pytest.raises(InputError, match="a residual of 5 rows, got 4"):
        linear(x, layer.weight, None, residual=draw(4, 96))
    with pytest.raises(InputError, match=r"linear reads \(rows, 64\)"):
        linear(x[:, :32], layer.weight, None)
    spaced = draw(96, 2)[:, 0]
    torch.testing.assert_close(
        linear(x, layer.weight, spaced), linear(x, layer.weight, spaced.clone())
    )


@needs_panels
@pytest.mark.parametrize("activation", ["silu", "gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_activations_of_extreme_sums(draw, dtype, activation) -> None:
    extremes = [0.0, -0.0, 1e-30, -1e-30, -3.0, 88.0, -88.0, 3e4, -3e4, 1e38, -1e38, torch.nan]
    x = torch.zeros(len(extremes), 2, dtype=dtype)
    x[:, 0] = torch.tensor(extremes)
    layer = cpu_panels.prepare(Linear(torch.tensor([[1.0, 0.0]]).to(dtype)))
    actual = TowerKernels("avx512_bf16").linear(x, layer.weight, None, activation=activation)
    expected = REFERENCE.linear(
        x.double(), torch.tensor([[1.0, 0.0]]).double(), None, activation=activation
    )
    torch.testing.assert_close(
        actual.double(),
        expected,
        rtol=torch.finfo(dtype).eps,
        atol=CPU_GELU if activation == "gelu" else 1e-30,
        equal_nan=True,
    )


def test_row_statistics(towers, draw) -> None:
    y, squares = with_row_options(towers.linear)(
        draw(5, 8), draw(9, 8), None, return_row_stats=True
    )
    assert torch.equal(squares, y.square().sum(dim=1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_two_parts_of_a_packed_layer(prepare, draw, dtype) -> None:
    layer = Linear(draw(96, 64, dtype=dtype), draw(96, dtype=dtype))
    split = prepare(layer, 32)
    x = draw(7, 64, dtype=dtype)
    for rows in ((0, 32), (32, None)):
        part, plain = split.rows(*rows), layer.rows(*rows)
        ours = TowerKernels("serial").linear(x, part.weight, part.bias)
        torch.testing.assert_close(ours, REFERENCE.linear(x, plain.weight, plain.bias))
    assert split.weight.shape == layer.weight.shape
    assert split.weight.dtype == dtype


def test_no_rows(towers, prepare, draw) -> None:
    packed = prepare(Linear(draw(96, 64), draw(96)))
    y = towers.linear(torch.empty(0, 64), packed.weight, packed.bias, residual=torch.empty(0, 96))
    assert y.shape == (0, 96)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("patch", [4, 14, 32])
def test_patches_of_bytes(towers, prepare, draw, dtype, patch) -> None:
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


def test_positions_of_other_images_are_refused(towers, draw) -> None:
    pixels, weight = draw.bytes(2, 3, 8, 8), draw(24, 48)
    with pytest.raises(InputError, match="has 5 positions, got 8 patches of 2 images"):
        towers.patch_embed(pixels, weight, None, draw(24), draw(5, 24))
    for class_width, width in ((23, 24), (24, 23)):
        with pytest.raises(InputError, match=r"patch_embed reads \(rows, 24\)"):
            towers.patch_embed(pixels, weight, None, draw(class_width), draw(4, width))


def test_pixels_that_are_no_images_are_refused(towers, draw) -> None:
    with pytest.raises(InputError, match=r"patch_embed reads \(B, 3, R, R\) on cpu"):
        towers.patch_embed(draw.bytes(2, 1, 8, 8), draw(4, 48), None, draw(4), draw(4, 4))
