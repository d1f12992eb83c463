"""Towers in fp8 and int8: their arithmetic against float64 on weights with outliers, Triton's kernels against it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import clipfast
from clipfast.backends import select_ops
from clipfast.backends.eight_bit import (
    PlainKernels,
    TritonKernels,
    in_8_bits,
    ops_in_8_bits,
    parameters_in_8_bits,
    unsupported_reason,
)
from clipfast.backends.reference import REFERENCE
from clipfast.backends.scaled import CODES, Scaled, quantised, widened
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
from tests.tolerances import EIGHT_BIT_TOWER_CENTRED, EIGHT_BIT_TOWER_COSINE
from tests.weights import Weights, save_as

BF16 = torch.bfloat16
CPU = torch.device("cpu")
PRECISIONS = pytest.mark.parametrize("precision", CODES)
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


@cache
def random_towers(activation: str, outliers: bool) -> tuple[ModelConfig, Weights]:
    config = deep(activation)
    weights = random_weights(config, seed=3)
    return config, with_outliers(weights) if outliers else weights


@cache
def rows_in_float64_and_bf16(
    tower: str, activation: str, outliers: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    config, weights = random_towers(activation, outliers)
    run = runs(config, CPU)[tower]
    return (
        run(fold(weights, config, torch.float64), REFERENCE),
        run(fold(weights, config, BF16), REFERENCE),
    )


@PRECISIONS
@pytest.mark.parametrize("tower", ["images", "texts"])
@pytest.mark.parametrize(
    ("activation", "outliers"), [("quick_gelu", True), ("gelu", True), ("quick_gelu", False)]
)
def test_cosine_to_float64(tower: str, activation: str, outliers: bool, precision: str) -> None:
    config, weights = random_towers(activation, outliers)
    run = runs(config, CPU)[tower]
    truth, rows_bf16 = rows_in_float64_and_bf16(tower, activation, outliers)
    of_bf16 = cosines(rows_bf16, truth)
    ops = ops_in_8_bits(REFERENCE, PlainKernels(CODES[precision]), precision)
    narrow = fold(weights, config, BF16, quantise=ops.quantise)
    rows = run(parameters_in_8_bits(narrow, precision), ops)
    found = cosines(rows, truth)
    # What outliers give to every row alike says nothing about the rows.
    mean = truth.mean(dim=0)
    centred = cosines(rows.double() - mean, truth - mean)
    print(
        f"{precision} {tower} {activation} {outliers=}: 1 - {1 - found:.1e}, centred 1 - {1 - centred:.1e}"
    )
    of_bf16_centred = cosines(rows_bf16.double() - mean, truth - mean)
    print(f"bf16: 1 - {1 - of_bf16:.1e}, centred 1 - {1 - of_bf16_centred:.1e}")
    assert found >= EIGHT_BIT_TOWER_COSINE
    assert centred >= EIGHT_BIT_TOWER_CENTRED
    assert not torch.equal(rows, rows_bf16)  # it did run in 8 bits


@PRECISIONS
def test_only_blocks_before_the_last_are_8_bit(precision: str) -> None:
    config, codes = deep("gelu"), CODES[precision]
    parameters = parameters_in_8_bits(fold(random_weights(config, seed=0), config, BF16), precision)
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
        assert kinds == [(codes, BF16, codes, codes)] * 4 + [(BF16,) * 4]
        assert tower.proj.weight.dtype == BF16


@PRECISIONS
def test_scales_are_exact_at_the_largest_and_zero_rows_stay_zero(precision: str) -> None:
    codes = CODES[precision]
    x = torch.tensor([[448.0, -3.5, 1.0], [0.0, 0.0, 0.0], [1e-3, 2e-3, -4e-3]])
    back = widened(quantised(x, 3, codes))
    assert torch.equal(back[1], x[1])
    assert back[0, 0] == 448.0
    wide = torch.randn(5, 300)
    groups = quantised(wide, 128, codes)
    assert groups.scale.shape == (5, 3)
    for exact, found in ((x, back), (wide, widened(groups))):
        step = exact.abs() / 16 + 1e-3 if precision == "fp8" else exact.abs().amax() / 253
        assert ((found - exact).abs() <= step).all()


def test_scaled_matrices_move_and_refuse_everything_else() -> None:
    scaled = quantised(torch.randn(4, 8), 8, torch.int8)
    moved = map_tensors(scaled, lambda part: part.to("cpu", copy=True))
    assert isinstance(moved, Scaled)
    assert torch.equal(widened(moved), widened(scaled))
    with pytest.raises(TypeError, match="cannot read a matrix of scaled"):
        F.linear(torch.randn(2, 8), scaled)


@PRECISIONS
def test_kernels_are_the_plain_arithmetic(
    operands: Operands, device: torch.device, precision: str
) -> None:
    """Layer norm, a grouped output, and the product that reads it, each on the other's operands."""
    codes = CODES[precision]
    plain, kernels = PlainKernels(codes), TritonKernels(codes)
    x, residual = operands(40, 192, std=9.0), operands(40, 192)
    ours, total = kernels.layer_norm(x, None, None, 1e-5, residual)
    exact, expected = plain.layer_norm(x, None, None, 1e-5, residual)
    assert total is not None
    assert expected is not None
    assert torch.allclose(total, expected)
    largest = widened(exact).abs().amax()
    assert (widened(ours) - widened(exact)).abs().max() <= largest / 16
    fc, proj = (
        quantised(operands(*shape, std=0.1), shape[1], codes) for shape in ((768, 192), (192, 768))
    )
    bias = operands(768, dtype=BF16)
    hidden = kernels.linear(ours, fc, bias, activation="silu", residual=None, dtype=codes)
    hidden_exact = plain.linear(ours, fc, bias, activation="silu", residual=None, dtype=codes)
    assert isinstance(hidden, Scaled)
    assert isinstance(hidden_exact, Scaled)
    assert hidden.scale.shape == hidden_exact.scale.shape == (40, 6)
    assert torch.allclose(hidden.scale, hidden_exact.scale, rtol=1e-3)
    y = kernels.linear(hidden, proj, None, activation=None, residual=residual, dtype=BF16)
    y_exact = plain.linear(hidden, proj, None, activation=None, residual=residual, dtype=BF16)
    assert y.dtype == residual.dtype
    error = ((y - y_exact).abs().max() / y_exact.abs().max()).item()
    print(f"{precision} product: relative error to plain torch {error:.1e}")
    assert error < 1e-5


@PRECISIONS
def test_tower_on_the_kernels(device: torch.device, precision: str) -> None:
    config = tiny()
    weights = with_outliers(random_weights(config, seed=3))
    ops = in_8_bits(select_ops("triton", device=device, dtype=BF16), device, precision)
    narrow = fold(weights, config, BF16, quantise=ops.quantise)
    parameters = map_tensors(parameters_in_8_bits(narrow, precision), lambda part: part.to(device))
    described = ops.describe()
    assert described["linear"].startswith(f"triton, {precision} in qkv")
    run = runs(config, device)["texts"]
    truth = runs(config, CPU)["texts"](fold(weights, config, torch.float64), REFERENCE)
    of_kernels = cosines(run(parameters, ops), truth)
    print(f"{precision} on the kernels: 1 - {1 - of_kernels:.1e}")
    assert of_kernels >= EIGHT_BIT_TOWER_COSINE


def test_a_model_of_int8_on_the_kernels(device: torch.device, tmp_path: Path) -> None:
    config = tiny()
    weights = with_outliers(random_weights(config, seed=0))
    source = save_as("open_clip_directory", weights, config, tmp_path)
    model = clipfast.load(source, device=device, precision="int8", backend="triton")
    operations = model.describe()["operations"]
    assert operations["linear"].startswith("triton, int8 in qkv")
    assert operations["layer_norm"] == "triton, int8 rows within blocks"
    texts = ["a cat", "two dogs on a beach"]
    exact = clipfast.load(source, device="cpu", precision="fp64").encode_texts(texts)
    found = cosines(model.encode_texts(texts), exact)
    print(f"int8 from load to rows: 1 - {1 - found:.1e}")
    assert found >= EIGHT_BIT_TOWER_COSINE


@PRECISIONS
def test_refuses_backends_without_such_products(precision: str) -> None:
    reason = unsupported_reason(REFERENCE, CPU, precision)
    assert reason == (
        f"backend 'reference' has no {precision} kernels; Triton's run on GPUs; else use fp32, bf16 or auto"
    )
    with pytest.raises(UnsupportedError, match=f"precision '{precision}' cannot be served on cpu"):
        in_8_bits(REFERENCE, CPU, precision)
