"""Products of bytes: rounding, epilogues, and whole towers with outlier channels, against float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import clipfast
from clipfast.backends import cpu_panels, cpu_quantised, select_ops
from clipfast.backends.cpu_panels import PanelWeight
from clipfast.backends.cpu_quantised import QuantisedRows, QuantisedWeight, multiplies_bytes
from clipfast.backends.cpu_towers import TowerKernels
from clipfast.backends.reference import REFERENCE
from clipfast.checkpoint.folds import fold
from clipfast.config import ARCHITECTURES
from clipfast.demo.digits import load_handwriting
from clipfast.demo.evaluate import evaluate
from clipfast.demo.samples import draw_gallery
from clipfast.model import encode_text, encode_vision
from clipfast.parameters import Linear
from tests.kernels.parity import DTYPES, Operands, strided
from tests.kernels.towers import packed
from tests.native.kernels import has_panels, kernels_for, needs_native
from tests.random_weights import random_weights, with_outliers
from tests.tolerances import (
    CPU_DEMO_POINTS,
    CPU_INT8_DEMO_RECALL,
    CPU_INT8_GELU,
    CPU_INT8_LOUD_COSINE,
    CPU_INT8_OUTLIER_COSINE,
    CPU_INT8_RECALL,
    CPU_INT8_SKEWED_COSINE,
    CPU_INT8_SKEWED_RECALL,
)

pytestmark = [
    needs_native,
    pytest.mark.skipif(not multiplies_bytes(), reason="oneDNN has no products of bytes here"),
]
CPU = torch.device("cpu")


@pytest.fixture
def draw() -> Operands:
    return Operands(CPU)


@pytest.fixture(params=[cpu_quantised, cpu_panels], ids=["onednn", "panels"])
def quantise(request: pytest.FixtureRequest):
    """Both ways to pack a layer; panels where this processor has what multiplies them."""
    if request.param is cpu_panels and not has_panels():
        pytest.skip("this processor lacks what multiplies panels")
    return request.param.quantise


@pytest.mark.parametrize("zero", [128, 32, 1])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [1, 15, 16, 33, 768])
def test_rows_become_bytes(towers: TowerKernels, draw, dtype, width, zero) -> None:
    x = strided(draw(11, width, dtype=dtype) * torch.logspace(-3, 3, 11)[:, None].to(dtype))
    quantised = QuantisedRows.of(x, zero, towers.isa)
    rows, scale = quantised.codes, quantised.scale
    wide = x.float()
    expected = torch.maximum(
        wide.amax(dim=1).clamp_min(0) / (255 - zero), -wide.amin(dim=1).clamp_max(0) / zero
    )
    torch.testing.assert_close(scale, expected, rtol=1e-6, atol=0)
    assert ((rows.float() - zero) * scale[:, None] - wide).abs().le(0.501 * scale[:, None]).all()


def test_rows_without_a_scale(towers: TowerKernels) -> None:
    x = torch.zeros(3, 20)
    x[1, 7] = torch.nan
    rows = QuantisedRows.of(x, 128, towers.isa)
    assert (rows.codes[[0, 2]] == 128).all()
    assert rows.scale[[0, 2]].eq(0).all()
    assert rows.scale[1].isnan()


def _rounded(weight: torch.Tensor) -> torch.Tensor:
    """What QuantisedWeight stands for, in float64."""
    scale = weight.double().abs().amax(dim=1, keepdim=True) / 127
    return torch.round(weight.double() / scale) * scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("activation", [None, "silu", "gelu", "quick_gelu"])
@pytest.mark.parametrize("adds", [False, True], ids=["plain", "residual"])
def test_a_product_is_that_of_the_rounded_operands(
    towers, quantise, draw, dtype, activation, adds
) -> None:
    x, weight = draw(37, 72, dtype=dtype), draw(40, 72, dtype=dtype, std=0.1)
    bias, residual = draw(40, dtype=dtype), draw(37, 40) if adds else None
    layer = quantise(Linear(weight, bias))
    actual = towers.linear(x, layer.weight, layer.bias, activation=activation, residual=residual)
    rows = QuantisedRows.of(x, 128, "serial")
    exact = REFERENCE.linear(
        (rows.codes.double() - 128) * rows.scale.double()[:, None],
        _rounded(weight),
        bias.double(),
        activation=activation,
        residual=None if residual is None else residual.double(),
    )
    step = torch.finfo(dtype).eps * exact.abs().max()
    error = (actual.double() - exact).abs().max()
    print(f"error {error:.1e}, one rounding {step:.1e}")
    assert actual.dtype == (dtype if residual is None else torch.float32)
    assert error <= 2 * step + CPU_INT8_GELU


def test_the_two_parts_and_no_rows(towers, quantise, draw) -> None:
    layer = quantise(Linear(draw(96, 64), draw(96)), 32)
    x = draw(5, 64)
    whole = towers.linear(x, layer.weight, layer.bias)
    for rows, columns in (((0, 32), slice(0, 32)), ((32, None), slice(32, None))):
        part = layer.rows(*rows)
        torch.testing.assert_close(towers.linear(x, part.weight, part.bias), whole[:, columns])
    assert towers.linear(x[:0], layer.weight, layer.bias).shape == (0, 96)


def test_a_quantised_weight_refuses_other_products(draw) -> None:
    for weight in (QuantisedWeight.of(draw(8, 8)), PanelWeight.of(draw(8, 8))):
        with pytest.raises(TypeError, match="cannot read a"):
            F.linear(draw(2, 8), weight)


@pytest.mark.parametrize("isa", ["serial", "avx2", "avx512", "avx512_bf16"])
def test_towers_with_outlier_channels(isa, monkeypatch) -> None:
    """Residual channels far above the others, which the norms scale down again, as trained ones do."""
    kernels_for(isa)
    monkeypatch.setenv("CLIPFAST_ISA", isa)
    config = _config()
    weights = _with_outliers(random_weights(config, seed=3))
    ops = select_ops("cpu", device=CPU, dtype=torch.bfloat16)
    ours = fold(weights, config, torch.bfloat16, ops.prepare, ops.quantise)
    exact = fold(weights, config, torch.float64)
    pixels = torch.randint(0, 256, (8, 3, 96, 96), generator=torch.Generator().manual_seed(0))
    texts = packed([[3, 1, 4, 1, 9], [3, 1, 4, 1, 5, 9], [2, 7], list(range(1, 17))], CPU)
    for name, run in {
        "images": lambda p, o: encode_vision(p.vision, config.vision, o, pixels.to(torch.uint8)),
        "texts": lambda p, o: encode_text(p.text, config.text, o, texts),
    }.items():
        cosine = F.cosine_similarity(run(ours, ops).double(), run(exact, REFERENCE)).min().item()
        print(f"{name}: 1 - cosine {1 - cosine:.1e}")
        assert cosine >= CPU_INT8_OUTLIER_COSINE


def _config():
    base = ARCHITECTURES["ViT-B-32"]
    vision = replace(base.vision, layers=4, width=256, heads=4, image_size=96)
    text = replace(base.text, layers=4, width=128, heads=2, vocab_size=64, context_length=16)
    return replace(base, vision=vision, text=text, embed_dim=64)


def _with_outliers(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Four channels of the residual streams far above the others; every norm that reads them turns them down."""
    changed = {name: tensor.clone() for name, tensor in weights.items()}
    channels, spikes = torch.tensor([3, 17, 40, 55]), torch.tensor([60.0, -45.0, 30.0, 80.0])
    changed["visual.ln_pre.bias"][channels] += spikes
    changed["visual.class_embedding"][channels] += spikes
    changed["positional_embedding"][:, channels] += spikes
    for name, tensor in changed.items():
        if name.endswith(("ln_1.weight", "ln_2.weight", "ln_final.weight", "ln_post.weight")):
            tensor[channels] *= 0.02
    return changed


@pytest.mark.slow
@pytest.mark.parametrize("outliers", ["loud", "skewed"])
def test_neighbours_of_outlier_towers_stay(outliers: str) -> None:
    """10,000 texts of random tokens: how many of each row's ten nearest are those of float64."""
    config = _config()
    change, least_kept, least_cosine = {
        "loud": (_with_loud_channels, CPU_INT8_RECALL, CPU_INT8_LOUD_COSINE),
        "skewed": (with_outliers, CPU_INT8_SKEWED_RECALL, CPU_INT8_SKEWED_COSINE),
    }[outliers]
    weights = change(random_weights(config, seed=3))
    ops = select_ops("cpu", device=CPU, dtype=torch.bfloat16)
    ours = fold(weights, config, torch.bfloat16, ops.prepare, ops.quantise)
    exact = fold(weights, config, torch.float64)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 64, (10_000, 8), generator=generator).tolist()
    rows = [
        torch.cat(
            [
                encode_text(p.text, config.text, o, packed(ids[start : start + 500], CPU)).double()
                for start in range(0, len(ids), 500)
            ]
        )
        for p, o in ((ours, ops), (exact, REFERENCE))
    ]
    kept = _neighbours_kept(*rows)
    cosine = F.cosine_similarity(*rows).min().item()
    print(f"recall@10 {kept:.4f}, lowest cosine {cosine:.4f}")
    assert kept >= least_kept
    assert cosine >= least_cosine


@pytest.mark.slow
def test_neighbours_of_the_trained_demo_stay() -> None:
    """10,000 drawn images."""
    images = np.stack([np.asarray(sample.image) for sample in draw_gallery(10_000)])
    ours, exact = (
        clipfast.load("demo", precision=precision).encode_images(images).double()
        for precision in ("int8", "fp64")
    )
    kept = _neighbours_kept(ours, exact)
    print(f"recall@10 {kept:.4f}")
    assert kept >= CPU_INT8_DEMO_RECALL


def _neighbours_kept(ours: torch.Tensor, exact: torch.Tensor) -> float:
    """Recall@10: how many of the ten nearest of the first 1,000 rows are those of the exact rows."""
    unit = [F.normalize(rows, dim=1) for rows in (ours, exact)]
    nearest = [(rows[:1000] @ rows.T).topk(11).indices[:, 1:] for rows in unit]
    return (nearest[0][:, :, None] == nearest[1][:, None, :]).any(dim=2).double().mean().item()


def _with_loud_channels(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Three channels that every block writes 60 times louder, and every norm reads 60 times quieter."""
    changed = {name: tensor.clone() for name, tensor in weights.items()}
    channels = torch.tensor([3, 50, 90])
    for name, tensor in changed.items():
        if name.endswith(
            ("c_proj.weight", "c_proj.bias", "out_proj.weight", "out_proj.bias")
        ) and name.startswith(("transformer", "visual.transformer")):
            tensor[channels] *= 60
        elif name.endswith(("ln_1.weight", "ln_2.weight", "ln_final.weight", "ln_post.weight")):
            tensor[channels] /= 60
    return changed


@pytest.mark.slow
def test_the_demo_answers_as_in_float32() -> None:
    _, held_out = load_handwriting()
    measured = {
        precision: evaluate(clipfast.load("demo", precision=precision), held_out)
        for precision in ("fp32", "bf16", "int8")
    }
    for precision in ("bf16", "int8"):
        assert measured[precision] == pytest.approx(measured["fp32"], abs=CPU_DEMO_POINTS), (
            precision
        )
