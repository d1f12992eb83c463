"""Convolutions of the cpu backend against float64."""

from __future__ import annotations

import pytest
import torch

from clipfast.backends import select_ops
from clipfast.backends.reference import REFERENCE
from tests.kernels.parity import DTYPES, Operands, assert_parity
from tests.native.kernels import needs_native

pytestmark = needs_native


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("adds", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (3, 1, 1), (3, 2, 0)])
def test_every_epilogue(dtype, adds, relu, kernel, stride, padding) -> None:
    draw = Operands(torch.device("cpu"))

    def last(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.contiguous(memory_format=torch.channels_last)

    x = last(draw(2, 13, 9, 9, dtype=dtype))
    weight = last(draw(24, 13, kernel, kernel, dtype=dtype, std=0.1))
    options = {"stride": stride, "padding": padding, "relu": relu}
    bias = draw(24, dtype=dtype)
    side = (9 + 2 * padding - kernel) // stride + 1
    residual = last(draw(2, 24, side, side, dtype=dtype)) if adds else None
    ops = select_ops("cpu", device="cpu", dtype=dtype)
    actual = ops.convolution(x, weight, bias, residual=residual, **options)
    plain = REFERENCE.convolution(x, weight, bias, residual=residual, **options)
    wide = [None if t is None else t.double() for t in (x, weight, bias, residual)]
    exact = REFERENCE.convolution(*wide[:3], residual=wide[3], **options)
    assert_parity(actual, exact, plain)
    assert actual.is_contiguous(memory_format=torch.channels_last)


def test_no_images() -> None:
    ops = select_ops("cpu", device="cpu", dtype=torch.float32)
    y = ops.convolution(torch.empty(0, 3, 8, 8), torch.ones(4, 3, 3, 3), torch.ones(4), stride=2)
    assert y.shape == (0, 4, 3, 3)
