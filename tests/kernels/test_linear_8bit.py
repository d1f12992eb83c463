"""linear_8bit against float64 of the same operands: scales by row and by group, quantised outputs, refusals."""

from __future__ import annotations

import pytest
import torch

from clipfast.backends.reference import linear as reference
from clipfast.errors import ConfigurationError
from clipfast.kernels.hardware import Hardware, hardware_of
from clipfast.kernels.layer_norm import layer_norm
from clipfast.kernels.linear_8bit import FP8, INT8, linear_8bit, unsupported_reason
from tests.kernels.parity import Canary, Operands, assert_parity
from tests.tolerances import FP8_HALF_STEP, INT8_HALF_STEP

BF16 = torch.bfloat16


@pytest.fixture(params=[FP8, INT8], ids=["fp8", "int8"])
def codes(request: pytest.FixtureRequest, device: torch.device) -> torch.dtype:
    reason = unsupported_reason(request.param, hardware_of(device).architecture)
    if device.type == "cuda" and reason is not None:
        pytest.skip(reason)
    return request.param


def quantised(x: torch.Tensor, group: int, codes: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in groups of columns, each with its own scale."""
    groups = x.split(group, dim=1)
    limit = 448 if codes == FP8 else 127
    scales = torch.stack([part.abs().amax(1) / limit for part in groups], dim=1)
    columns = [part / scale[:, None] for part, scale in zip(groups, scales.T, strict=True)]
    values = torch.cat(columns, dim=1)
    return (values if codes == FP8 else values.round()).to(codes), scales


def wide(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """float64 of a quantised matrix."""
    if scale.shape[1] == 1:
        return x.double() * scale.double()
    return x.double() * scale.double().repeat_interleave(128, dim=1)[:, : x.shape[1]]


def between(x: torch.Tensor) -> torch.Tensor:
    """The same matrix with a row stride wider than its rows, surrounded by the largest codes."""
    wider = torch.full((x.shape[0], x.shape[1] + 24), 100.0, device=x.device).to(x.dtype)
    wider[:, 8 : x.shape[1] + 8] = x
    return wider[:, 8 : x.shape[1] + 8]


def layer(
    operands: Operands, rows: int, columns: int, depth: int, group: int, codes: torch.dtype
) -> tuple[torch.Tensor, ...]:
    weight, weight_scale = quantised(operands(columns, depth, std=depth**-0.5), depth, codes)
    x, x_scale = quantised(operands(rows, depth, std=3.0), group, codes)
    return x, x_scale, weight, weight_scale[:, 0].contiguous(), operands(columns, dtype=BF16)


@pytest.mark.parametrize(
    ("rows", "columns", "depth"), [(50, 192, 256), (65, 130, 208), (0, 64, 128)]
)
@pytest.mark.parametrize("grouped", [False, True], ids=["rows", "groups"])
def test_products(
    operands: Operands,
    hardware: Hardware,
    codes: torch.dtype,
    rows: int,
    columns: int,
    depth: int,
    grouped: bool,
) -> None:
    x, x_scale, weight, weight_scale, bias = layer(
        operands, rows, columns, depth, 128 if grouped else depth, codes
    )
    residual = operands(rows, columns)
    y, y_scale = linear_8bit(
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


def test_quantises_its_output_for_the_next_product(
    operands: Operands, hardware: Hardware, codes: torch.dtype
) -> None:
    x, x_scale, weight, weight_scale, bias = layer(operands, 40, 208, 256, 256, codes)
    y, y_scale = linear_8bit(
        x, x_scale, weight, weight_scale, bias, activation="gelu", dtype=codes, hardware=hardware
    )
    assert y.dtype == codes
    assert y_scale.shape == (40, 2)
    exact_weight = wide(weight, weight_scale[:, None])
    exact = reference(wide(x, x_scale), exact_weight, bias.double(), activation="gelu")
    half_step = FP8_HALF_STEP if codes == FP8 else INT8_HALF_STEP
    for group in (slice(0, 128), slice(128, 208)):
        largest = exact[:, group].abs().amax(1, keepdim=True)
        error = (wide(y, y_scale)[:, group] - exact[:, group]).abs()
        print(f"relative to the largest: {(error / largest).max().item():.4f}")
        assert (error <= half_step * largest).all()
    next_weight, next_scale = quantised(operands(64, 208), 208, codes)
    again, _ = linear_8bit(
        y, y_scale, next_weight, next_scale[:, 0].contiguous(), None, hardware=hardware
    )
    exact_again = wide(y, y_scale) @ wide(next_weight, next_scale).T
    assert_parity(again, exact_again, exact_again.to(BF16))


def test_takes_what_layer_norm_quantised(
    operands: Operands, hardware: Hardware, codes: torch.dtype
) -> None:
    x, _, scale = layer_norm(operands(20, 192, std=9.0), None, None, 1e-5, dtype=codes)
    _, _, weight, weight_scale, bias = layer(operands, 1, 96, 192, 192, codes)
    y, _ = linear_8bit(x, scale[:, None], weight, weight_scale, bias, hardware=hardware)
    exact = wide(x, scale[:, None]) @ wide(weight, weight_scale[:, None]).T + bias.double()
    assert_parity(y, exact, exact.to(BF16))


def test_strided_operands_and_nothing_else_written(
    operands: Operands, hardware: Hardware, device: torch.device, codes: torch.dtype
) -> None:
    x, x_scale, weight, weight_scale, bias = layer(operands, 45, 70, 208, 128, codes)
    canary = Canary((45, 70), BF16, device)
    y, _ = linear_8bit(
        between(x), x_scale, between(weight), weight_scale, bias, out=canary.out, hardware=hardware
    )
    canary.assert_alive()
    again, _ = linear_8bit(x, x_scale, weight, weight_scale, bias, hardware=hardware)
    assert torch.equal(y, again)


def test_long_sums_of_int8_are_exact(operands: Operands, hardware: Hardware) -> None:
    """5,120 products of 127 * 127 are 8e7: float32 would lose their last digits."""
    x, weight = torch.full((3, 5120), 127, dtype=INT8), torch.full((130, 5120), 127, dtype=INT8)
    x[1, 0], weight[:, 1] = 126, -127
    one = torch.ones(3, 1, device=operands.device)
    x, weight = x.to(operands.device), weight.to(operands.device)
    scale = torch.ones(130, device=operands.device)
    y, _ = linear_8bit(x, one, weight, scale, None, dtype=torch.float32, hardware=hardware)
    assert torch.equal(y, (x.double() @ weight.double().T).float())


@pytest.mark.parametrize("programs", [1, 3, 100])
def test_programs_walk_every_tile(operands: Operands, programs: int, codes: torch.dtype) -> None:
    parts = layer(operands, 150, 300, 128, 128, codes)
    y, _ = linear_8bit(*parts, hardware=Hardware(90, programs))
    assert torch.equal(y, linear_8bit(*parts, hardware=Hardware(90, 2))[0])


def test_refuses_in_words(operands: Operands, codes: torch.dtype) -> None:
    x, x_scale, weight, weight_scale, _ = layer(operands, 4, 64, 256, 128, codes)
    other = INT8 if codes == FP8 else FP8
    for wrong in (torch.float32, other):
        with pytest.raises(ConfigurationError, match=f"dtypes {wrong}, {codes}; expected"):
            linear_8bit(x.to(wrong), x_scale, weight, weight_scale, None)
    with pytest.raises(ConfigurationError, match=f"dtype={other}; expected a wider one"):
        linear_8bit(x, x_scale, weight, weight_scale, None, dtype=other)
    with pytest.raises(ConfigurationError, match="x_scale has 3 columns; expected 1, or one for"):
        linear_8bit(x, torch.ones(4, 3), weight, weight_scale, None)
    with pytest.raises(ConfigurationError, match="an 8-bit output got a residual"):
        linear_8bit(x, x_scale, weight, weight_scale, None, dtype=codes, residual=operands(4, 64))
    with pytest.raises(ConfigurationError, match="activation='tanh'"):
        linear_8bit(x, x_scale, weight, weight_scale, None, activation="tanh")


def test_architectures() -> None:
    assert unsupported_reason(FP8, 90) is unsupported_reason(INT8, 80) is None
    assert unsupported_reason(FP8, 80) == (
        "fp8 products need compute capability 8.9 or newer, not 8.0"
    )
    assert unsupported_reason(INT8, 75) == (
        "int8 products need compute capability 8.0 or newer, not 7.5"
    )
