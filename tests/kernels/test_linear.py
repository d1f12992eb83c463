"""linear against float64: epilogues, dtypes, pointer and descriptor tiles, the normalisation inside the products."""

from __future__ import annotations

import pytest
import torch

from clipfast.backends.reference import REFERENCE
from clipfast.backends.reference import linear as reference
from clipfast.backends.triton import make_ops
from clipfast.errors import ConfigurationError
from clipfast.kernels.hardware import Hardware
from clipfast.kernels.linear import ACTIVATIONS, linear
from tests.kernels.parity import DTYPES, Canary, Operands, assert_parity, strided
from tests.tolerances import (
    ACTIVATION_RELATIVE,
    ERF_GELU_ABSOLUTE,
    FOLDED_NORM_ERROR_FACTOR,
    ROW_SUMS_RELATIVE,
)

BF16, FP16 = torch.bfloat16, torch.float16


def layer(
    operands: Operands, rows: int, columns: int, depth: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = operands(rows, depth, dtype=dtype)
    return x, operands(columns, depth, dtype=dtype, std=depth**-0.5), operands(columns, dtype=dtype)


def check(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    hardware: Hardware,
    *,
    activation: str | None = None,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    options = {"activation": activation, "residual": residual}
    wide = {
        name: value.double() if isinstance(value, torch.Tensor) else value
        for name, value in options.items()
    }
    y, sums = linear(x, weight, bias, **options, hardware=hardware)
    exact = reference(x.double(), weight.double(), None if bias is None else bias.double(), **wide)
    assert_parity(y, exact, reference(x, weight, bias, **options))
    assert sums is None
    return y


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations(operands: Operands, hardware: Hardware, activation: str | None) -> None:
    check(*layer(operands, 50, 96, 64, FP16), hardware, activation=activation)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu", "silu"])
@pytest.mark.parametrize("dtype", [BF16, torch.float32], ids=str)
def test_activations_alone(
    hardware: Hardware, device: torch.device, activation: str, dtype: torch.dtype
) -> None:
    """Each number through a product with 1, in fp32, as far out as a GELU of 16-bit operands is fitted."""
    x = torch.linspace(-8, 8, 2000, dtype=dtype, device=device)[:, None]
    one, zero = torch.ones(1, 1, dtype=dtype, device=device), torch.zeros(2000, 1, device=device)
    y, _ = linear(x, one, None, activation=activation, residual=zero, hardware=hardware)
    wide = x.double()
    exact = 0.5 * wide * torch.special.erfc(wide * -(0.5**0.5))
    if activation != "gelu":
        exact = wide * torch.sigmoid((1.0 if activation == "silu" else 1.702) * wide)
    error = (y.double() - exact).abs()
    absolute, relative = error.max().item(), (error / exact.abs())[x != 0].max().item()
    print(f"absolute error {absolute:.1e}, relative {relative:.1e}")
    if activation == "gelu" and dtype == torch.float32:
        assert absolute <= ERF_GELU_ABSOLUTE
    else:
        assert relative <= ACTIVATION_RELATIVE


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu", "silu"])
def test_activations_of_large_numbers_and_nan(
    hardware: Hardware, device: torch.device, activation: str
) -> None:
    x = torch.tensor([-3e38, -1e5, -300.0, 0.0, 300.0, 1e5, 3e38, torch.nan], device=device)
    for dtype in (BF16, torch.float32):
        narrow = x.to(dtype)[:, None]
        one = torch.ones(1, 1, dtype=dtype, device=device)
        y, _ = linear(narrow, one, None, activation=activation, hardware=hardware)
        expected = narrow.clamp(min=0)
        torch.testing.assert_close(y, expected, atol=0, rtol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("residual", [None, torch.float32, "same"], ids=str)
def test_dtypes_and_wider_residuals(
    operands: Operands, hardware: Hardware, dtype: torch.dtype, residual: torch.dtype | str | None
) -> None:
    x, weight, bias = layer(operands, 50, 128, 192, dtype)
    added = None
    if residual is not None:
        added = operands(50, 128, dtype=dtype if residual == "same" else residual, std=30.0)
    y = check(x, weight, bias, hardware, residual=added)
    assert y.dtype == (x.dtype if added is None else added.dtype)


@pytest.mark.parametrize(
    ("rows", "columns", "depth"),
    [(1, 1, 1), (13, 17, 5), (50, 768, 64), (63, 65, 64), (65, 63, 66), (129, 200, 72), (0, 8, 8)],
    ids=lambda size: str(size),
)
def test_sizes_that_no_tile_divides(
    operands: Operands, hardware: Hardware, rows: int, columns: int, depth: int
) -> None:
    x, weight, bias = layer(operands, rows, columns, depth, FP16)
    check(x, weight, bias, hardware, residual=operands(rows, columns))


@pytest.mark.parametrize("programs", [1, 8])
def test_large_tiles_and_their_slices(operands: Operands, programs: int) -> None:
    x, weight, bias = layer(operands, 200, 520, 64, FP16)
    for architecture in (80, 90):
        check(x, weight, bias, Hardware(architecture, programs), residual=operands(200, 520))


def test_strided_operands_and_no_bias(operands: Operands, hardware: Hardware) -> None:
    x, weight, _ = layer(operands, 40, 64, 96, FP16)
    check(strided(x), strided(weight), None, hardware, residual=strided(operands(40, 64)))


def test_rows_that_no_descriptor_can_carry(operands: Operands, hardware: Hardware) -> None:
    x, weight, bias = layer(operands, 40, 64, 97, FP16)
    check(x[:, 1:], weight[:, 1:], bias, hardware)


def test_row_options_of_the_backend(operands: Operands) -> None:
    """What `ops.Linear` promises beside the product: scaled rows, and the squares of what comes out."""
    x, weight, bias = layer(operands, 70, 96, 64, FP16)
    options = {"activation": "silu", "row_scale": operands(70).exp(), "residual": operands(70, 96)}
    y, squares = make_ops().linear(x, weight, bias, **options, return_row_stats=True)
    wide = {name: v.double() if isinstance(v, torch.Tensor) else v for name, v in options.items()}
    exact = REFERENCE.linear(x.double(), weight.double(), bias.double(), **wide)
    assert_parity(y, exact, REFERENCE.linear(x, weight, bias, **options))
    assert torch.equal(squares, y.float().square().sum(dim=1))


@pytest.mark.parametrize("columns", [300, 17])
def test_sums_of_rows_in_a_fixed_order(
    operands: Operands, hardware: Hardware, columns: int
) -> None:
    x, weight, bias = layer(operands, 70, columns, 64, FP16)
    residual = operands(70, columns, std=30.0) + 10
    y, sums = linear(x, weight, bias, residual=residual, return_sums=True, hardware=hardware)
    again = linear(x, weight, bias, residual=residual, return_sums=True, hardware=hardware)
    assert torch.equal(sums, again[1])
    assert torch.equal(y, again[0])
    exact = reference(x.double(), weight.double(), bias.double(), residual=residual.double())
    of_rows, of_squares = (part.double().sum(dim=1) for part in sums.chunk(2, dim=1))
    relative = (of_squares / exact.square().sum(1) - 1).abs().max().item()
    of_mean = ((of_rows - exact.sum(1)) / exact.abs().sum(1)).abs().max().item()
    print(f"relative error of the sums of squares {relative:.2e}, of the sums {of_mean:.2e}")
    assert max(relative, of_mean) <= ROW_SUMS_RELATIVE


@pytest.mark.parametrize("dtype", [FP16, BF16], ids=str)
def test_a_copy_in_the_next_products_dtype(
    operands: Operands, hardware: Hardware, device: torch.device, dtype: torch.dtype
) -> None:
    x, weight, bias = layer(operands, 70, 200, 64, dtype)
    residual = operands(70, 200, std=30.0)
    around = torch.full((74, 200), torch.nan, dtype=dtype, device=device)
    y, _ = linear(x, weight, bias, residual=residual, copy=around[2:72], hardware=hardware)
    assert torch.equal(around[2:72], y.to(dtype))
    assert around[[0, 1, 72, 73]].isnan().all()
    assert torch.equal(y, linear(x, weight, bias, residual=residual, hardware=hardware)[0])


@pytest.mark.parametrize("dtype", [FP16, BF16], ids=str)
@pytest.mark.parametrize("mean", [0.0, 3.0])
@pytest.mark.parametrize("outliers", [False, True], ids=["random", "outliers"])
def test_a_normalisation_inside_the_products(
    operands: Operands, hardware: Hardware, dtype: torch.dtype, mean: float, outliers: bool
) -> None:
    """No LayerNorm between two products: the first one sums its rows, the second one scales them."""
    width, eps = 192, 1e-5
    x, writer, bias = layer(operands, 70, width, 64, dtype)
    residual = operands(70, width, std=3.0) + mean
    if outliers:
        residual[:, [3, 77]] += torch.tensor([180.0, -120.0], device=residual.device)
    reader = operands(96, width, std=width**-0.5)
    reader = (reader - reader.mean(dim=1, keepdim=True)).to(dtype)
    copy = torch.empty(70, width, dtype=dtype, device=x.device)
    stream, sums = linear(
        x, writer, bias, residual=residual, copy=copy, return_sums=True, hardware=hardware
    )
    y, _ = linear(copy, reader, None, activation="silu", row_sums=sums, eps=eps, hardware=hardware)
    wide = reference(x.double(), writer.double(), bias.double(), residual=residual.double())
    exact_norm = torch.nn.functional.layer_norm(wide, [width], eps=eps)
    exact = reference(exact_norm, reader.double(), None, activation="silu")
    plain_norm = torch.nn.functional.layer_norm(stream, [width], eps=eps).to(dtype)
    plain = reference(plain_norm, reader, None, activation="silu")
    error = (y.double() - exact).abs().max().item()
    of_torch = (plain.double() - exact).abs().max().item()
    print(f"error {error:.2e}, torch's LayerNorm and linear {of_torch:.2e}")
    assert error <= FOLDED_NORM_ERROR_FACTOR * of_torch


def test_writes_its_output_and_nothing_else(
    operands: Operands, hardware: Hardware, device: torch.device
) -> None:
    x, weight, bias = layer(operands, 45, 70, 64, FP16)
    canary = Canary((45, 70), FP16, device)
    y, _ = linear(x, weight, bias, out=canary.out, hardware=hardware)
    canary.assert_alive()
    assert torch.equal(y, linear(x, weight, bias, hardware=hardware)[0])


def test_a_row_does_not_see_its_neighbours(operands: Operands, hardware: Hardware) -> None:
    """Neighbours of NaN neither; the tile that many rows take sums in the order of the one that few rows take."""
    x, weight, bias = layer(operands, 150, 96, 128, FP16)
    clean, _ = linear(x, weight, bias, hardware=hardware)
    x[:70] = torch.nan
    x[71:] = torch.nan
    dirty, _ = linear(x, weight, bias, hardware=hardware)
    assert torch.equal(dirty[70], clean[70])
    alone, _ = linear(x[70:71], weight, bias, hardware=hardware)
    assert_parity(alone[0], clean[70].double(), clean[70])


def test_refuses_in_words(operands: Operands) -> None:
    x, weight, bias = layer(operands, 4, 8, 16, FP16)
    with pytest.raises(
        ConfigurationError, match=r"weight has shape \(8, 16\); expected \('any', 15\)"
    ):
        linear(x[:, :15], weight, bias)
    with pytest.raises(ConfigurationError, match=r"weight has dtype torch\.float32; expected x's"):
        linear(x, weight.float(), bias)
    with pytest.raises(ConfigurationError, match="activation='tanh'; expected one of"):
        linear(x, weight, bias, activation="tanh")
    with pytest.raises(ConfigurationError, match=r"bias has shape \(8,\); expected \(7,\)"):
        linear(x, weight[:7], bias)
    with pytest.raises(ConfigurationError, match=r"residual has shape \(4, 7\)"):
        linear(x, weight, bias, residual=operands(4, 7))
    with pytest.raises(ConfigurationError, match="row_sums has 3 columns; expected an even"):
        linear(x, weight, bias, row_sums=operands(4, 3))
    with pytest.raises(ConfigurationError, match=r"copy has strides \(16, 1\); expected contig"):
        linear(x, weight, bias, copy=operands(4, 16)[:, :8])
