"""Towers in fp8: their arithmetic against float64 on weights with outliers, Triton's kernels against it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from clipfast.backends import select_ops
from clipfast.backends.fp8 import (
    FP8,
    PlainKernels,
    Scaled,
    TritonKernels,
    fp8_ops,
    fp8_parameters,
    in_fp8,
    quantised,
    unsupported_reason,
    widened,
)
from clipfast.backends.reference import REFERENCE
from clipfast.checkpoint.folds import fold
from clipfast.config import ModelConfig
from clipfast.errors import UnsupportedError
from clipfast.model import encode_text, encode_vision
from clipfast.ops import Ops
from clipfast.parameters import Parameters, map_tensors
from tests.kernels.parity import Operands
from tests.kernels.test_triton_backend import TEXTS
from tests.kernels.towers import packed
from tests.random_weights import random_weights, tiny, with_outliers
from tests.tolerances import FP8_TOWER_CENTRED, FP8_TOWER_COSINE

BF16 = torch.bfloat16
CPU = torch.device("cpu")
Run = Callable[[Parameters, Ops], torch.Tensor]


def deep(activation: str) -> ModelConfig:
    """Five blocks a tower, wider than one group of 128 columns."""
    config = tiny(activation)
    return replace(
        config,
        vision=replace(config.vision, layers=5, width=192, heads=3, mlp_width=768),
        text=replace(config.text, layers=5),
    )


def runs(config: ModelConfig, device: torch.device) -> dict[str, Run]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8, generator=generator)
    return {
        "images": lambda p, ops: encode_vision(p.vision, config.vision, ops, pixels.to(device)),  # type: ignore[arg-type]
        "texts": lambda p, ops: encode_text(p.text, config.text, ops, packed(TEXTS, device)),
    }


def cosines(rows: torch.Tensor, truth: torch.Tensor) -> float:
    return F.cosine_similarity(rows.cpu().double(), truth.double(), dim=-1).min().item()


@pytest.mark.parametrize("tower", ["images", "texts"])
@pytest.mark.parametrize(
    ("activation", "outliers"), [("quick_gelu", True), ("gelu", True), ("quick_gelu", False)]
)
def test_cosine_to_float64(tower: str, activation: str, outliers: bool) -> None:
    config = deep(activation)
    weights = random_weights(config, seed=3)
    weights = with_outliers(weights) if outliers else weights
    run = runs(config, CPU)[tower]
    truth = run(fold(weights, config, torch.float64), REFERENCE)
    narrow = fold(weights, config, BF16)
    rows_bf16 = run(narrow, REFERENCE)
    of_bf16 = cosines(rows_bf16, truth)
    ops = fp8_ops(REFERENCE, PlainKernels())
    rows = run(fp8_parameters(narrow), ops)
    of_fp8 = cosines(rows, truth)
    # What outliers give to every row alike says nothing about the rows.
    mean = truth.mean(dim=0)
    centred = cosines(rows.double() - mean, truth - mean)
    print(f"{tower} {activation} {outliers=}: 1 - {1 - of_fp8:.1e}, centred 1 - {1 - centred:.1e}")
    of_bf16_centred = cosines(rows_bf16.double() - mean, truth - mean)
    print(f"bf16: 1 - {1 - of_bf16:.1e}, centred 1 - {1 - of_bf16_centred:.1e}")
    assert of_fp8 >= FP8_TOWER_COSINE
    assert centred >= FP8_TOWER_CENTRED
    assert of_fp8 < of_bf16  # it did run in fp8


def test_only_blocks_before_the_last_are_fp8() -> None:
    config = deep("gelu")
    parameters = fp8_parameters(fold(random_weights(config, seed=0), config, BF16))
    for tower in (parameters.vision, parameters.text):
        kinds = [
            (
                block.qkv.weight.dtype,
                block.out_proj.weight.dtype,
                block.c_fc.weight.dtype,
                block.c_proj.weight.dtype,
            )
            for block in tower.blocks
        ]
        assert kinds == [(FP8, BF16, FP8, FP8)] * 4 + [(BF16,) * 4]
        assert tower.proj.weight.dtype == BF16


def test_scales_are_exact_at_the_largest_and_zero_rows_stay_zero() -> None:
    x = torch.tensor([[448.0, -3.5, 1.0], [0.0, 0.0, 0.0], [1e-3, 2e-3, -4e-3]])
    back = widened(quantised(x, 3))
    assert torch.equal(back[1], x[1])
    assert back[0, 0] == 448.0
    assert ((back - x).abs() <= x.abs() / 16 + 1e-9).all()
    wide = torch.randn(5, 300)
    groups = quantised(wide, 128)
    assert groups.scale.shape == (5, 3)
    assert ((widened(groups) - wide).abs() <= wide.abs() / 16 + groups.scale.amax() * 2**-10).all()


def test_scaled_matrices_move_and_refuse_everything_else() -> None:
    scaled = quantised(torch.randn(4, 8), 8)
    moved = map_tensors(scaled, lambda part: part.to("cpu", copy=True))
    assert isinstance(moved, Scaled)
    assert torch.equal(widened(moved), widened(scaled))
    with pytest.raises(TypeError, match="cannot read a matrix of scaled"):
        F.linear(torch.randn(2, 8), scaled)


def test_kernels_are_the_plain_arithmetic(operands: Operands, device: torch.device) -> None:
    """Layer norm, a grouped output, and the product that reads it, each on the other's operands."""
    plain, kernels = PlainKernels(), TritonKernels()
    x, residual = operands(40, 192, std=9.0), operands(40, 192)
    ours, total = kernels.layer_norm(x, None, None, 1e-5, residual)
    exact, expected = plain.layer_norm(x, None, None, 1e-5, residual)
    assert total is not None
    assert expected is not None
    assert torch.allclose(total, expected)
    largest = widened(exact).abs().amax()
    assert (widened(ours) - widened(exact)).abs().max() <= largest / 16
    fc, proj = (
        quantised(operands(*shape, std=0.1), shape[1]) for shape in ((768, 192), (192, 768))
    )
    bias = operands(768, dtype=BF16)
    hidden = kernels.linear(ours, fc, bias, activation="silu", residual=None, dtype=FP8)
    hidden_exact = plain.linear(ours, fc, bias, activation="silu", residual=None, dtype=FP8)
    assert isinstance(hidden, Scaled)
    assert isinstance(hidden_exact, Scaled)
    assert hidden.scale.shape == hidden_exact.scale.shape == (40, 6)
    assert torch.allclose(hidden.scale, hidden_exact.scale, rtol=1e-3)
    y = kernels.linear(hidden, proj, None, activation=None, residual=residual, dtype=BF16)
    y_exact = plain.linear(hidden, proj, None, activation=None, residual=residual, dtype=BF16)
    assert y.dtype == residual.dtype
    error = ((y - y_exact).abs().max() / y_exact.abs().max()).item()
    print(f"product of 8-bit floats: relative error to plain torch {error:.1e}")
    assert error < 1e-5


def test_tower_on_the_kernels(device: torch.device) -> None:
    config = tiny()
    weights = with_outliers(random_weights(config, seed=3))
    narrow = map_tensors(fold(weights, config, BF16), lambda part: part.to(device))
    base = select_ops("triton", device=device, dtype=BF16)
    ops, parameters = in_fp8(base, device), fp8_parameters(narrow)
    described = ops.describe()
    assert described["linear"].startswith("triton, fp8 in qkv")
    run = runs(config, device)["texts"]
    truth = runs(config, CPU)["texts"](fold(weights, config, torch.float64), REFERENCE)
    of_kernels = cosines(run(parameters, ops), truth)
    print(f"fp8 on the kernels: 1 - {1 - of_kernels:.1e}")
    assert of_kernels >= FP8_TOWER_COSINE


def test_refuses_backends_without_fp8_products() -> None:
    reason = unsupported_reason(REFERENCE, CPU)
    assert reason == "backend 'reference' multiplies with reference, and fp8 needs Triton's kernels"
    with pytest.raises(UnsupportedError, match="precision 'fp8' cannot be served on cpu: backend"):
        in_fp8(REFERENCE, CPU)
