"""layer_norm against float64: widths, residuals, dtypes, quantised rows, refusals."""

from __future__ import annotations

import pytest
import torch

from clipfast.backends.reference import layer_norm as reference
from clipfast.errors import ConfigurationError
from clipfast.kernels.layer_norm import MAX_WIDTH, layer_norm
from tests.kernels.parity import DTYPES, Canary, Operands, assert_parity, strided
from tests.tolerances import FP8_HALF_STEP


@pytest.mark.parametrize("width", [1, 7, 512, 768, 1280, 1664, 2048], ids="D{}".format)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_normalises_rows_of_any_width(operands: Operands, width: int, dtype: torch.dtype) -> None:
    x = operands(3, width, dtype=dtype, std=3.0)
    weight, bias = operands(width, dtype=dtype), operands(width, dtype=dtype)
    y, r, scale = layer_norm(x, weight, bias, 1e-5)
    exact = reference(x.double(), weight.double(), bias.double(), 1e-5)
    assert_parity(y, exact, reference(x, weight, bias, 1e-5))
    assert r is None
    assert scale is None


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_adds_a_wider_residual_first(operands: Operands, rows: int) -> None:
    x = operands(rows, 768, dtype=torch.bfloat16)
    residual = operands(rows, 768, std=50.0)
    y, r, _ = layer_norm(strided(x), None, None, 1e-5, strided(residual))
    exact_y, exact_r = reference(x.double(), None, None, 1e-5, residual.double())
    plain_y, plain_r = reference(x, None, None, 1e-5, residual)
    assert_parity(y, exact_y, plain_y)
    assert_parity(r, exact_r, plain_r)


def test_statistics_survive_what_overflows_half_precision(operands: Operands) -> None:
    x = operands(2, 1024, dtype=torch.float16)
    x[:, 7] = 6e4
    y, _, _ = layer_norm(x, None, None, 1e-5)
    assert_parity(y, reference(x.double(), None, None, 1e-5), reference(x, None, None, 1e-5))


def test_writes_its_output_and_nothing_else(operands: Operands, device: torch.device) -> None:
    x = operands(5, 77)
    canary = Canary((5, 77), torch.float16, device)
    y, _, _ = layer_norm(x, None, None, 1e-5, dtype=torch.float16, out=canary.out)
    canary.assert_alive()
    assert torch.equal(y, layer_norm(x, None, None, 1e-5, dtype=torch.float16)[0])


@pytest.mark.parametrize(
    ("dtype", "half_step"), [(torch.int8, 0.5 / 127), (torch.float8_e4m3fn, FP8_HALF_STEP)], ids=str
)
def test_quantises_each_row_to_its_own_scale(
    operands: Operands, dtype: torch.dtype, half_step: float
) -> None:
    x = operands(4, 640) * torch.tensor([[1.0], [1e-3], [1e3], [1.0]], device=operands.device)
    x[3] = 0.0
    weight = operands(640)
    y, _, scale = layer_norm(x, weight, None, 1e-5, dtype=dtype)
    exact = reference(x.double(), weight.double(), None, 1e-5)
    largest = exact.abs().amax(dim=1, keepdim=True)
    error = (y.double() * scale.double()[:, None] - exact).abs()
    assert (error <= half_step * (1 + 1e-5) * largest).all()
    assert scale.tolist()[3] == 1.0
    assert (y[3].float() == 0).all()


def test_a_row_does_not_see_its_neighbours(operands: Operands) -> None:
    x = operands(6, 768)
    alone, _, _ = layer_norm(x[2:3], None, None, 1e-5)
    among, _, _ = layer_norm(x, None, None, 1e-5)
    again, _, _ = layer_norm(x, None, None, 1e-5)
    assert torch.equal(alone[0], among[2])
    assert torch.equal(among, again)


def test_refuses_in_words(operands: Operands) -> None:
    x = operands(2, 8)
    with pytest.raises(ConfigurationError, match=rf"width {MAX_WIDTH + 1}; expected at most"):
        layer_norm(operands(1, MAX_WIDTH + 1), None, None, 1e-5)
    with pytest.raises(ConfigurationError, match=r"weight has shape \(7,\); expected \(8,\)"):
        layer_norm(x, operands(7), None, 1e-5)
    with pytest.raises(ConfigurationError, match=r"residual has shape \(2, 9\)"):
        layer_norm(x, None, None, 1e-5, operands(2, 9))
    with pytest.raises(ConfigurationError, match="expected the last one to be 1"):
        layer_norm(x.T, None, None, 1e-5)
    with pytest.raises(ConfigurationError, match=r"out has dtype torch.float32; expected"):
        layer_norm(x, None, None, 1e-5, dtype=torch.float16, out=operands(2, 8))
