"""linear_fp8 against float64 of the same 8-bit operands: scales by row and by group, quantised outputs, refusals."""

from __future__ import annotations

import pytest
import torch

from clipfast.backends.reference import linear as reference
from clipfast.errors import ConfigurationError
from clipfast.kernels.configs import Hardware, hardware_of
from clipfast.kernels.layer_norm import layer_norm
from clipfast.kernels.linear_fp8 import FP8, linear_fp8, unsupported_reason
from tests.kernels.parity import Canary, Operands, assert_parity, strided
from tests.tolerances import FP8_HALF_STEP

BF16 = torch.bfloat16


@pytest.fixture(autouse=True)
def needs_fp8(device: torch.device) -> None:
    reason = unsupported_reason(hardware_of(device).architecture)
    if device.type == "cuda" and reason is not None:
        pytest.skip(reason)


def quantised(x: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in groups of columns, each with its own scale."""
    groups = x.split(group, dim=1)
    scales = torch.stack([part.abs().amax(1) / 448 for part in groups], dim=1)
    columns = [part / scale[:, None] for part, scale in zip(groups, scales.T, strict=True)]
    return torch.cat(columns, dim=1).to(FP8), scales


def wide(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """float64 of a quantised matrix."""
    if scale.shape[1] == 1:
        return x.double() * scale.double()
    return x.double() * scale.double().repeat_interleave(128, dim=1)[:, : x.shape[1]]


def layer(
    operands: Operands, rows: int, columns: int, depth: int, group: int
) -> tuple[torch.Tensor, ...]:
    weight, weight_scale = quantised(operands(columns, depth, std=depth**-0.5), depth)
    x, x_scale = quantised(operands(rows, depth, std=3.0), group)
    return x, x_scale, weight, weight_scale[:, 0].contiguous(), operands(columns, dtype=BF16)


@pytest.mark.parametrize(
    ("rows", "columns", "depth"), [(50, 192, 256), (65, 130, 208), (0, 64, 128)]
)
@pytest.mark.parametrize("grouped", [False, True], ids=["rows", "groups"])
def test_products(
    operands: Operands, hardware: Hardware, rows: int, columns: int, depth: int, grouped: bool
) -> None:
    x, x_scale, weight, weight_scale, bias = layer(
        operands, rows, columns, depth, 128 if grouped else depth
    )
    residual = operands(rows, columns)
    y, y_scale = linear_fp8(
        x,
        x_scale,
        weight,
        weight_scale,
        bias,
        activation="silu",
        residual=residual,
        hardware=hardware,
    )
    exact_x, exact_weight = wide(x, x_scale), wide(weight, weight_scale[:, None])
    options = {"activation": "silu", "residual": residual.double()}
    exact = reference(exact_x, exact_weight, bias.double(), **options)
    options["residual"] = residual
    assert_parity(y, exact, reference(exact_x.to(BF16), exact_weight.to(BF16), bias, **options))
    assert y_scale is None


def test_quantises_its_output_for_the_next_product(operands: Operands, hardware: Hardware) -> None:
    x, x_scale, weight, weight_scale, bias = layer(operands, 40, 208, 256, 256)
    y, y_scale = linear_fp8(
        x, x_scale, weight, weight_scale, bias, activation="gelu", dtype=FP8, hardware=hardware
    )
    assert y.dtype == FP8
    assert y_scale.shape == (40, 2)
    exact_weight = wide(weight, weight_scale[:, None])
    exact = reference(wide(x, x_scale), exact_weight, bias.double(), activation="gelu")
    for group in (slice(0, 128), slice(128, 208)):
        largest = exact[:, group].abs().amax(1, keepdim=True)
        error = (wide(y, y_scale)[:, group] - exact[:, group]).abs()
        print(f"relative to the largest: {(error / largest).max().item():.4f}")
        assert (error <= FP8_HALF_STEP * largest).all()
    next_weight, next_scale = quantised(operands(64, 208), 208)
    again, _ = linear_fp8(
        y, y_scale, next_weight, next_scale[:, 0].contiguous(), None, hardware=hardware
    )
    exact_again = wide(y, y_scale) @ wide(next_weight, next_scale).T
    assert_parity(again, exact_again, exact_again.to(BF16))


def test_takes_what_layer_norm_quantised(operands: Operands, hardware: Hardware) -> None:
    x, _, scale = layer_norm(operands(20, 192, std=9.0), None, None, 1e-5, dtype=FP8)
    _, _, weight, weight_scale, bias = layer(operands, 1, 96, 192, 192)
    y, _ = linear_fp8(x, scale[:, None], weight, weight_scale, bias, hardware=hardware)
    exact = wide(x, scale[:, None]) @ wide(weight, weight_scale[:, None]).T + bias.double()
    assert_parity(y, exact, exact.to(BF16))


def test_strided_operands_and_nothing_else_written(
    operands: Operands, hardware: Hardware, device: torch.device
) -> None:
    x, x_scale, weight, weight_scale, bias = layer(operands, 45, 70, 208, 128)
    canary = Canary((45, 70), BF16, device)
    y, _ = linear_fp8(
        strided(x), x_scale, strided(weight), weight_scale, bias, out=canary.out, hardware=hardware
    )
    canary.assert_alive()
    again, _ = linear_fp8(x, x_scale, weight, weight_scale, bias, hardware=hardware)
    assert torch.equal(y, again)


@pytest.mark.parametrize("programs", [1, 3, 100])
def test_programs_walk_every_tile(operands: Operands, programs: int) -> None:
    parts = layer(operands, 150, 300, 128, 128)
    y, _ = linear_fp8(*parts, hardware=Hardware(90, programs))
    assert torch.equal(y, linear_fp8(*parts, hardware=Hardware(90, 2))[0])


def test_refuses_in_words(operands: Operands) -> None:
    x, x_scale, weight, weight_scale, _ = layer(operands, 4, 64, 256, 128)
    with pytest.raises(ConfigurationError, match=r"dtypes torch\.float32, torch\.float8_e4m3fn"):
        linear_fp8(x.float(), x_scale, weight, weight_scale, None)
    with pytest.raises(ConfigurationError, match="x_scale has 3 columns; expected 1, or one for"):
        linear_fp8(x, torch.ones(4, 3), weight, weight_scale, None)
    with pytest.raises(ConfigurationError, match="an fp8 output got a residual"):
        linear_fp8(x, x_scale, weight, weight_scale, None, dtype=FP8, residual=operands(4, 64))
    with pytest.raises(ConfigurationError, match="activation='tanh'"):
        linear_fp8(x, x_scale, weight, weight_scale, None, activation="tanh")
    assert unsupported_reason(90) is None
    assert unsupported_reason(80) == "fp8 products need compute capability 8.9 or newer, not 8.0"
