"""What adding in the tensor cores' own accumulator costs fp8 towers, emulated: on 89 and 90 it keeps 13 bits.

One instruction takes 32 products and the accumulator to the exponent of the largest of them, cuts each 13 bits below it
and adds. Source: DeepSeek-AI 2024, arXiv:2412.19437, section 3.3.2; its figure of 14 bits, and one less here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F

from clipfast.backends import reference
from clipfast.backends.eight_bit import PlainKernels, ops_in_8_bits, parameters_in_8_bits
from clipfast.backends.reference import REFERENCE
from clipfast.backends.scaled import FP8, GROUP, Scaled, quantised
from clipfast.checkpoint.folds import fold
from clipfast.model import encode_vision
from clipfast.ops import LinearActivation
from tests.random_weights import random_weights, tiny, with_outliers
from tests.tolerances import FP8_ACCUMULATION_COSTS

AT_ONCE = 32


def accumulated(a: torch.Tensor, b: torch.Tensor, bits: int) -> torch.Tensor:
    """a @ b^T in an accumulator that keeps so many bits below its largest addend. a: (M, K), b: (N, K) float32."""
    total = torch.zeros(len(a), len(b))
    for left, right in zip(a.split(AT_ONCE, 1), b.split(AT_ONCE, 1), strict=True):
        addends = torch.cat([left[:, None] * right, total[..., None]], dim=2)
        largest = addends.abs().amax(dim=2, keepdim=True)
        step = torch.exp2(torch.frexp(largest).exponent - 1.0 - bits)
        total = ((addends / step).trunc().sum(dim=2, keepdim=True) * step)[..., 0]
    return total


@dataclass(frozen=True)
class TensorCores(PlainKernels):
    """Products whose rows have one scale, summed in the tensor cores; the others are promoted, as here."""

    bits: int = 13

    def linear(
        self,
        x: Scaled,
        weight: Scaled,
        bias: torch.Tensor | None,
        *,
        activation: LinearActivation | None,
        residual: torch.Tensor | None,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        if x.scale.shape[1] > 1:
            return super().linear(
                x, weight, bias, activation=activation, residual=residual, dtype=dtype
            )
        sums = accumulated(x.codes.float(), weight.codes.float(), self.bits)
        y = sums * x.scale * weight.scale[:, 0]
        y = reference.activate(y if bias is None else y + bias.float(), activation)
        return quantised(y, GROUP, self.codes) if dtype == self.codes else y.to(dtype)


@pytest.fixture(scope="module")
def lost() -> dict[int | None, float]:
    """Bits of the accumulator, None for float32 -> what the rows' mean cosine to float64 lacks to 1."""
    config = tiny("quick_gelu")
    vision = replace(config.vision, layers=4, width=512, heads=8, mlp_width=2048)
    config = replace(config, vision=vision)
    weights = with_outliers(random_weights(config, seed=3))
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=generator)

    def rows(parameters: object, kernels: PlainKernels | None) -> torch.Tensor:
        ops = REFERENCE if kernels is None else ops_in_8_bits(REFERENCE, kernels, "fp8")
        return encode_vision(parameters.vision, vision, ops, pixels).double()  # type: ignore[attr-defined]

    truth = rows(fold(weights, config, torch.float64), None)
    codes = parameters_in_8_bits(fold(weights, config, torch.bfloat16), "fp8")
    chosen = {None: PlainKernels(FP8)} | {bits: TensorCores(FP8, bits) for bits in (13, 4)}
    return {
        bits: 1 - F.cosine_similarity(rows(codes, kernels), truth, dim=-1).mean().item()
        for bits, kernels in chosen.items()
    }


@pytest.mark.slow
def test_thirteen_bits_are_enough_for_rows_of_one_scale(lost: dict[int | None, float]) -> None:
    print(f"1 - cosine: float32 {lost[None]:.2e}, 13 bits {lost[13]:.2e}, 4 bits {lost[4]:.2e}")
    assert lost[13] <= FP8_ACCUMULATION_COSTS * lost[None]


@pytest.mark.slow
def test_fewer_bits_are_seen(lost: dict[int | None, float]) -> None:
    assert lost[4] > FP8_ACCUMULATION_COSTS * lost[None]


def test_the_emulation_is_exact_where_nothing_is_cut() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(-8, 9, (5, 70), generator=generator).float()
    b = torch.randint(-8, 9, (7, 70), generator=generator).float()
    assert torch.equal(accumulated(a, b, 20), a @ b.T)
    assert not torch.equal(accumulated(a, b, 3), a @ b.T)
