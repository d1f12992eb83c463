from __future__ import annotations

import pytest
import torch

from clipfast.backends.cpu import CosineKernels
from clipfast.backends.reference import REFERENCE
from clipfast.errors import ConfigurationError
from tests.native.kernels import DTYPES, cosines, needs_native, rows
from tests.tolerances import KERNEL_ERROR_FACTOR

pytestmark = needs_native

SHAPES = [
    (32, 1000, 512),
    (1, 1000, 512),
    (3, 5000, 768),
    (21, 333, 1024),
    (1030, 37, 64),
    (5, 1, 64),
    (5, 7, 64),
    (5, 8, 64),
    (5, 17, 64),
    (5, 9000, 33),
    (3, 100, 1),
    (3, 100, 15),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_probabilities_are_float64s(
    kernels: CosineKernels, shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    queries_count, count, width = shape
    queries, keys = rows(queries_count, width, 0, dtype), rows(count, width, 1, dtype)
    truth = torch.softmax(100.0 * cosines(queries, keys), dim=-1)
    out = kernels.similarity(queries, keys, 100.0)
    assert out.shape == (queries_count, count)
    assert out.dtype == torch.float32
    error = (out - truth).abs().max().item()
    of_torch = (REFERENCE.similarity(queries, keys, 100.0) - truth).abs().max().item()
    print(f"{kernels.isa} {dtype} {shape}: error {error:.1e}, torch {of_torch:.1e}")
    # A logit of 100 has four roundings of half an ulp (two reciprocal norms, two products), each of which is a
    # relative error of the probability; torch has none where E is 1.
    floor = 4 / 2 * 100 * torch.finfo(torch.float32).eps * truth.max().item()
    assert error <= KERNEL_ERROR_FACTOR * of_torch + floor
    assert (out.double().sum(dim=-1) - 1).abs().max().item() < 1e-5


@pytest.mark.parametrize("scale", [0.0, 1.0, -30.0, 1e4])
def test_any_finite_scale(kernels: CosineKernels, scale: float) -> None:
    queries, keys = rows(6, 96, 2), rows(50, 96, 3)
    truth = torch.softmax(scale * cosines(queries, keys), dim=-1)
    out = kernels.similarity(queries, keys, scale)
    assert (out - truth).abs().max().item() <= 2e-6 * max(1.0, abs(scale))


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_scale_that_is_not_finite_is_refused(kernels: CosineKernels, scale: float) -> None:
    with pytest.raises(ConfigurationError, match="finite scale"):
        kernels.similarity(torch.ones(1, 4), torch.ones(2, 4), scale)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_threads_neighbours_and_strides_change_no_bit(
    kernels: CosineKernels, dtype: torch.dtype
) -> None:
    wide = rows(500, 120, 4, dtype)
    queries, keys = wide[::2, 3:103], wide[1::2, 5:105]
    out = kernels.similarity(queries, keys, 20.0)
    assert torch.equal(out, kernels.similarity(queries.contiguous(), keys.contiguous(), 20.0))
    assert torch.equal(out[77:78], kernels.similarity(queries[77:78], keys, 20.0))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert torch.equal(out, kernels.similarity(queries, keys, 20.0))
    finally:
        torch.set_num_threads(before)


def test_zero_rows_are_uniform(kernels: CosineKernels) -> None:
    out = kernels.similarity(torch.zeros(2, 16), rows(5, 16, 5), 100.0)
    assert torch.allclose(out, torch.full((2, 5), 0.2), atol=1e-7)


def test_nan_stays_in_its_query_and_spreads_from_a_key(kernels: CosineKernels) -> None:
    queries, keys = rows(9, 32, 6), rows(21, 32, 7)
    clean = kernels.similarity(queries, keys, 50.0)
    queries[4, 1] = float("nan")
    out = kernels.similarity(queries, keys, 50.0)
    assert out[4].isnan().all()
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    assert torch.equal(out[others], clean[others])
    keys[20, 0] = float("inf")
    assert kernels.similarity(queries, keys, 50.0).isnan().all()


def test_norms_beyond_float32_squares_are_exact(kernels: CosineKernels) -> None:
    queries, keys = rows(6, 40, 8), rows(30, 40, 9)
    truth = torch.softmax(10 * cosines(queries, keys), dim=-1)
    queries[2] *= 1e30
    keys[::4] *= 1e25
    out = kernels.similarity(queries, keys, 10.0)
    assert (out - truth).abs().max().item() < 1e-5


@pytest.mark.parametrize(("queries_count", "count"), [(0, 3), (3, 0), (0, 0)])
def test_empty_in_empty_out(kernels: CosineKernels, queries_count: int, count: int) -> None:
    out = kernels.similarity(torch.ones(queries_count, 8), torch.ones(count, 8), 1.0)
    assert out.shape == (queries_count, count)


def test_small_probabilities_vanish_without_noise(kernels: CosineKernels) -> None:
    keys = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    out = kernels.similarity(torch.tensor([[1.0, 0.0]]), keys, 60.0)
    expected = torch.softmax(torch.tensor([60.0, -60.0, 0.0], dtype=torch.float64), dim=0)
    assert torch.allclose(out[0].double(), expected, rtol=1e-5, atol=1e-37)
