"""LayerNorm and the residual add in C++ against float64, and the rounding of every storage type."""

from __future__ import annotations

import pytest
import torch

from clipfast.backends.cpu_towers import TowerKernels
from clipfast.backends.reference import REFERENCE
from clipfast.errors import InputError
from tests.kernels.parity import DTYPES, Operands, assert_parity, strided
from tests.native.kernels import needs_native

pytestmark = needs_native


@pytest.fixture
def draw() -> Operands:
    return Operands(torch.device("cpu"))


def _assert_norm(towers: TowerKernels, x, weight, bias, residual, dtype) -> None:
    def wide(t):
        return None if t is None else t.double()

    arguments = (x, weight, bias, 1e-5, residual, dtype)
    actual, plain = towers.layer_norm(*arguments), REFERENCE.layer_norm(*arguments)
    exact = REFERENCE.layer_norm(*map(wide, (x, weight, bias)), 1e-5, wide(residual), torch.float64)
    if residual is None:
        actual, plain, exact = (actual,), (plain,), (exact,)
    for ours, torchs, truth in zip(actual, plain, exact, strict=True):
        assert_parity(ours, truth, torchs)


@pytest.mark.parametrize("width", [1, 7, 16, 31, 33, 512, 768, 1664])
def test_rows_of_any_width(towers: TowerKernels, draw: Operands, width: int) -> None:
    x = draw(37, width, dtype=torch.float32) * 3 + 1
    _assert_norm(towers, x, draw(width), draw(width), None, torch.float32)


@pytest.mark.parametrize("out", DTYPES, ids=str)
@pytest.mark.parametrize("stream", DTYPES, ids=str)
@pytest.mark.parametrize("storage", DTYPES, ids=str)
def test_every_mixture_of_dtypes(towers, draw, storage, stream, out) -> None:
    x, residual = draw(19, 96, dtype=storage), draw(19, 96, dtype=stream)
    _assert_norm(towers, x, None, None, residual, out)


def test_a_large_mean_costs_no_digits(towers: TowerKernels, draw: Operands) -> None:
    _assert_norm(towers, draw(5, 768) + 1000, None, None, None, torch.float32)


def test_strided_rows(towers: TowerKernels, draw: Operands) -> None:
    x, residual = strided(draw(9, 64, dtype=torch.bfloat16)), strided(draw(9, 64))
    _assert_norm(towers, x, draw(64), draw(64), residual, torch.bfloat16)


def test_no_rows(towers: TowerKernels) -> None:
    y, r = towers.layer_norm(torch.empty(0, 64), None, None, 1e-5, torch.empty(0, 64))
    assert y.shape == r.shape == (0, 64)


def test_threads_do_not_change_a_bit(towers: TowerKernels, draw: Operands) -> None:
    x, before = draw(201, 768), torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(towers.layer_norm(x, None, None, 1e-5))
    torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_sums_are_rounded_as_torch_rounds(towers: TowerKernels, dtype: torch.dtype) -> None:
    """Any float32 bit pattern plus zero; bfloat16 instructions drop subnormals, which is what they promise."""
    generator = torch.Generator().manual_seed(1)
    bits = torch.randint(-(2**31), 2**31, (64, 1009), generator=generator).to(torch.int32)
    x = bits.view(torch.float32)
    if dtype == torch.bfloat16 and towers.isa == "avx512_bf16":
        x = torch.where(x.abs() < torch.finfo(torch.float32).tiny, 0.0, x)
    ours, torchs = towers.add(x, torch.zeros(64, 1009, dtype=dtype)), x.to(dtype)
    assert torch.equal(ours.isnan(), torchs.isnan())
    assert torch.equal(ours[~ours.isnan()], torchs[~ours.isnan()])


def test_what_cannot_be_read_is_refused(towers: TowerKernels) -> None:
    with pytest.raises(InputError, match=r"layer_norm reads \(rows, 8\) with unit stride"):
        towers.layer_norm(torch.zeros(4, 8), None, None, 1e-5, torch.zeros(4, 9))
    with pytest.raises(
        InputError, match=r"float32, float16 or bfloat16 on cpu, got torch\.float64"
    ):
        towers.layer_norm(torch.zeros(4, 8, dtype=torch.float64), None, None, 1e-5)
