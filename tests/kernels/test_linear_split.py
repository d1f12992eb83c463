"""Products of few rows in parts of their depth, against float64: epilogues, sums for the next one, uneven parts."""

from __future__ import annotations

import pytest
import torch

from clipfast.backends.reference import linear as reference
from clipfast.kernels.configs import linear_split
from clipfast.kernels.hardware import Hardware
from clipfast.kernels.linear import ACTIVATIONS, linear
from tests.kernels.parity import Canary, Operands, assert_parity, strided
from tests.tolerances import FOLDED_NORM_ERROR_FACTOR, ROW_SUMS_RELATIVE

BF16, FP16 = torch.bfloat16, torch.float16
H100 = Hardware(90, 132)


@pytest.fixture
def whole(hardware: Hardware) -> Hardware:
    """The architecture, pointers or descriptors, with as many multiprocessors as its GPUs have."""
    return Hardware(hardware.architecture, 132)


def layer(
    operands: Operands, rows: int, columns: int, depth: int, dtype: torch.dtype = FP16
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = operands(rows, depth, dtype=dtype)
    return x, operands(columns, depth, dtype=dtype, std=depth**-0.5), operands(columns, dtype=dtype)


def parts(shape: tuple[int, int, int], hardware: Hardware) -> int:
    split = linear_split(16, *shape, hardware)
    return 1 if split is None else split.parts


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("B/32 c_proj", (50, 768, 3072), 8),
        ("L/14 c_proj", (257, 1024, 4096), 3),
        ("L/14 @336 c_proj", (577, 1024, 4096), 1),
        ("one text c_proj", (16, 512, 2048), 8),
        ("B/32 qkv", (50, 2304, 768), 1),
        ("B/32 out_proj", (50, 768, 768), 1),
        ("B/32 c_fc", (50, 3072, 768), 1),
        ("8 images c_proj", (400, 768, 3072), 3),
        ("56 images c_proj", (2800, 768, 3072), 1),
    ],
)
def test_depth_is_divided_where_it_is_deep_and_the_device_idle(
    name: str, shape: tuple[int, int, int], expected: int
) -> None:
    assert parts(shape, H100) == expected, name


def test_float32_and_full_devices_have_one_kernel() -> None:
    assert linear_split(32, 50, 768, 3072, H100) is None
    assert linear_split(16, 50, 768, 3072, Hardware(90, 6)) is None


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations(operands: Operands, whole: Hardware, activation: str | None) -> None:
    x, weight, bias = layer(operands, 5, 64, 1280)
    assert parts((5, 64, 1280), whole) > 1
    y, _ = linear(x, weight, bias, activation=activation, hardware=whole)
    exact = reference(x.double(), weight.double(), bias.double(), activation=activation)
    assert_parity(y, exact, reference(x, weight, bias, activation=activation))


@pytest.mark.parametrize(("depth", "dtype"), [(1024, FP16), (1160, BF16)], ids=str)
def test_residual_copy_and_sums(
    operands: Operands, whole: Hardware, depth: int, dtype: torch.dtype
) -> None:
    x, weight, bias = layer(operands, 70, 100, depth, dtype)
    assert parts((70, 100, depth), whole) > 1
    residual = operands(70, 100, std=30.0) + 10
    copy = torch.empty(70, 100, dtype=dtype, device=x.device)
    y, sums = linear(
        x, weight, bias, residual=residual, copy=copy, return_sums=True, hardware=whole
    )
    exact = reference(x.double(), weight.double(), bias.double(), residual=residual.double())
    assert_parity(y, exact, reference(x, weight, bias, residual=residual))
    assert torch.equal(copy, y.to(dtype))
    assert sums.shape == (70, 2)
    relative = (sums[:, 1].double() / exact.square().sum(1) - 1).abs().max().item()
    of_mean = ((sums[:, 0].double() - exact.sum(1)) / exact.abs().sum(1)).abs().max().item()
    print(f"relative error of the sums of squares {relative:.2e}, of the sums {of_mean:.2e}")
    assert max(relative, of_mean) <= ROW_SUMS_RELATIVE
    again = linear(x, weight, bias, residual=residual, return_sums=True, hardware=whole)
    assert torch.equal(y, again[0])
    assert torch.equal(sums, again[1])


def test_a_normalisation_inside_the_products(operands: Operands, whole: Hardware) -> None:
    width, eps = 1280, 1e-5
    x, writer, bias = layer(operands, 20, width, 64)
    residual = operands(20, width, std=3.0) + 2
    reader = operands(96, width, std=width**-0.5)
    reader = (reader - reader.mean(dim=1, keepdim=True)).to(FP16)
    copy = torch.empty(20, width, dtype=FP16, device=x.device)
    stream, sums = linear(
        x, writer, bias, residual=residual, copy=copy, return_sums=True, hardware=whole
    )
    assert sums.shape[1] > 2
    assert parts((20, 96, width), whole) > 1
    y, _ = linear(copy, reader, None, activation="silu", row_sums=sums, eps=eps, hardware=whole)
    wide = reference(x.double(), writer.double(), bias.double(), residual=residual.double())
    norm = torch.nn.functional.layer_norm
    exact = reference(norm(wide, [width], eps=eps), reader.double(), None, activation="silu")
    plain = reference(norm(stream, [width], eps=eps).to(FP16), reader, None, activation="silu")
    error, of_torch = ((rows.double() - exact).abs().max().item() for rows in (y, plain))
    print(f"error {error:.2e}, torch's LayerNorm and linear {of_torch:.2e}")
    assert error <= FOLDED_NORM_ERROR_FACTOR * of_torch


def test_strided_and_unaligned_operands(operands: Operands, whole: Hardware) -> None:
    x, weight, bias = layer(operands, 9, 65, 1217)
    for given in ((strided(x), strided(weight)), (x[:, 1:], weight[:, 1:])):
        assert parts((9, 65, given[0].shape[1]), whole) > 1
        y, _ = linear(*given, bias, residual=strided(operands(9, 65)), hardware=whole)
        assert torch.isfinite(y).all()
    y, _ = linear(x[:, 1:], weight[:, 1:], None, hardware=whole)
    exact = x[:, 1:].double() @ weight[:, 1:].double().T
    assert_parity(y, exact, x[:, 1:] @ weight[:, 1:].T)


def test_writes_its_output_and_nothing_else(
    operands: Operands, whole: Hardware, device: torch.device
) -> None:
    x, weight, bias = layer(operands, 45, 70, 1280)
    canary = Canary((45, 70), FP16, device)
    y, _ = linear(x, weight, bias, out=canary.out, hardware=whole)
    canary.assert_alive()
    assert torch.equal(y, linear(x, weight, bias, hardware=whole)[0])
