"""Convolutions of the cpu backend against float64."""

from __future__ import annotations

import pytest
import torch

from clipfast.backends import cpu_panels, select_ops
from clipfast.backends.cpu_convolution import convolution
from clipfast.backends.cpu_panels import PanelWeight
from clipfast.backends.reference import REFERENCE
from clipfast.parameters import Convolution
from tests.kernels.parity import DTYPES, Operands, assert_parity
from tests.native.kernels import has_panels, needs_native

pytestmark = needs_native


def _last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("adds", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (3, 1, 1), (3, 2, 0)])
def test_every_epilogue(dtype, adds, relu, kernel, stride, padding) -> None:
    draw = Operands(torch.device("cpu"))
    x = _last(draw(2, 13, 9, 9, dtype=dtype))
    weight = _last(draw(24, 13, kernel, kernel, dtype=dtype, std=0.1))
    options = {"stride": stride, "padding": padding, "relu": relu}
    bias = draw(24, dtype=dtype)
    side = (9 + 2 * padding - kernel) // stride + 1
    residual = _last(draw(2, 24, side, side, dtype=dtype)) if adds else None
    ops = select_ops("cpu", device="cpu", dtype=dtype)
    actual = ops.convolution(x, weight, bias, residual=residual, **options)
    plain = REFERENCE.convolution(x, weight, bias, residual=residual, **options)
    wide = [None if t is None else t.double() for t in (x, weight, bias, residual)]
    exact = REFERENCE.convolution(*wide[:3], residual=wide[3], **options)
    assert_parity(actual, exact, plain)
    assert actual.is_contiguous(memory_format=torch.channels_last)


@pytest.fixture
def pack():
    """A weight in panels, where this processor has what multiplies them."""
    if not has_panels():
        pytest.skip("this processor lacks what multiplies panels")
    return PanelWeight.of


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("adds", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(
    ("images", "inputs", "features", "height", "width"),
    [(3, 64, 64, 7, 7), (1, 2, 130, 14, 13), (2, 12, 7, 1, 28), (2, 34, 96, 5, 1)],
)
def test_panels(pack, images, inputs, features, height, width, kernel, relu, adds, dtype) -> None:
    draw = Operands(torch.device("cpu"))
    x = _last(draw(images, inputs, height, width, dtype=dtype))
    std = (inputs * kernel**2) ** -0.5
    weight = _last(draw(features, inputs, kernel, kernel, dtype=dtype, std=std))
    bias = draw(features, dtype=dtype)
    residual = _last(draw(images, features, height, width, dtype=dtype)) if adds else None
    options = {"padding": kernel // 2, "relu": relu}
    actual = convolution(x, pack(weight), bias.float(), residual=residual, **options)
    plain = REFERENCE.convolution(x, weight, bias, residual=residual, **options)
    wide = [None if t is None else t.double() for t in (x, weight, bias, residual)]
    exact = REFERENCE.convolution(*wide[:3], residual=wide[3], **options)
    assert_parity(actual, exact, plain)
    assert actual.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kernel", [1, 3])
def test_images_through_panels_depend_on_nothing_else(pack, kernel) -> None:
    """The same bits beside any number of other images, on any number of threads."""
    draw = Operands(torch.device("cpu"))
    x = _last(draw(9, 64, 14, 14, dtype=torch.bfloat16))
    weight = pack(draw(130, 64, kernel, kernel, dtype=torch.bfloat16))
    bias = draw(130)

    def images(part: slice) -> torch.Tensor:
        return convolution(x[part], weight, bias, padding=kernel // 2, relu=True)

    whole = images(slice(None))
    for part in (slice(0, 1), slice(3, 5), slice(2, 9)):
        assert torch.equal(images(part), whole[part])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(5)
        assert torch.equal(images(slice(None)), whole)
    finally:
        torch.set_num_threads(threads)
    assert images(slice(0, 0)).shape == (0, 130, 14, 14)


def test_which_convolutions_are_packed() -> None:
    """Those that oneDNN is slower at; rows that are no whole units never are."""
    bias = torch.ones(256, dtype=torch.bfloat16)
    for inputs, kernel, packed in (
        (256, 1, True),
        (256, 3, True),
        (64, 1, False),
        (256, 5, False),
        (257, 1, False),
    ):
        weight = torch.ones(256, inputs, kernel, kernel, dtype=torch.bfloat16)
        layer = cpu_panels.prepare_convolution(Convolution(weight, bias))
        assert isinstance(layer.weight, PanelWeight) == packed
        assert layer.weight.shape == weight.shape


def test_a_rectified_nan_stays(pack) -> None:
    x = torch.tensor([torch.nan, -1.0, 2.0]).view(3, 1, 1, 1)
    y = convolution(x, pack(torch.ones(1, 1, 1, 1)), torch.zeros(1), relu=True).flatten()
    assert y[0].isnan()
    assert y[1:].tolist() == [0, 2]


def test_no_images() -> None:
    ops = select_ops("cpu", device="cpu", dtype=torch.float32)
    y = ops.convolution(torch.empty(0, 3, 8, 8), torch.ones(4, 3, 3, 3), torch.ones(4), stride=2)
    assert y.shape == (0, 4, 3, 3)
