"""Products of bytes: rounding, epilogues, and whole towers with outlier channels, against float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from clipfast.backends import cpu, select_ops
from clipfast.backends.cpu_quantised import QuantisedProducts, QuantisedWeight, quantise
from clipfast.backends.cpu_towers import TowerKernels
from clipfast.backends.reference import REFERENCE
from clipfast.checkpoint.folds import fold
from clipfast.config import ARCHITECTURES
from clipfast.model import encode_text, encode_vision
from clipfast.parameters import Linear
from tests.kernels.parity import DTYPES, Operands, strided
from tests.kernels.towers import packed
from tests.native.kernels import needs_native
from tests.random_weights import random_weights
from tests.tolerances import CPU_INT8_GELU, CPU_INT8_OUTLIER_COSINE

pytestmark = needs_native
CPU = torch.device("cpu")


@pytest.fixture
def draw() -> Operands:
    return Operands(CPU)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [1, 15, 16, 33, 768])
def test_rows_become_bytes_around_128(towers: TowerKernels, draw, dtype, width) -> None:
    x = strided(draw(11, width, dtype=dtype) * torch.logspace(-3, 3, 11)[:, None].to(dtype))
    rows, scale = QuantisedProducts(towers.isa)._quantise(x)
    torch.testing.assert_close(scale, x.float().abs().amax(dim=1) / 127, rtol=1e-6, atol=0)
    assert ((rows.float() - 128) * scale[:, None] - x.float()).abs().le(0.5001 * scale[:, None]).all()


def test_rows_without_a_scale(towers: TowerKernels) -> None:
    x = torch.zeros(3, 20)
    x[1, 7] = torch.nan
    rows, scale = QuantisedProducts(towers.isa)._quantise(x)
    assert (rows[[0, 2]] == 128).all()
    assert scale[[0, 2]].eq(0).all()
    assert scale[1].isnan()


def _rounded(weight: torch.Tensor) -> torch.Tensor:
    """What QuantisedWeight stands for, in float64."""
    scale = weight.double().abs().amax(dim=1, keepdim=True) / 127
    return torch.round(weight.double() / scale) * scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("activation", [None, "silu", "gelu", "quick_gelu"])
@pytest.mark.parametrize("adds", [False, True], ids=["plain", "residual"])
def test_a_product_is_that_of_the_rounded_operands(towers, draw, dtype, activation, adds) -> None:
    x, weight = draw(37, 72, dtype=dtype), draw(40, 72, dtype=dtype, std=0.1)
    bias, residual = draw(40, dtype=dtype), draw(37, 40) if adds else None
    layer = quantise(Linear(weight, bias))
    actual = towers.linear(x, layer.weight, layer.bias, activation=activation, residual=residual)
    rows, scale = QuantisedProducts("serial")._quantise(x)
    exact = REFERENCE.linear(
        (rows.double() - 128) * scale.double()[:, None],
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


def test_the_two_parts_and_no_rows(towers, draw) -> None:
    layer = quantise(Linear(draw(96, 64), draw(96)), 32)
    x = draw(5, 64)
    whole = towers.linear(x, layer.weight, layer.bias)
    for rows, columns in (((0, 32), slice(0, 32)), ((32, None), slice(32, None))):
        part = layer.rows(*rows)
        torch.testing.assert_close(towers.linear(x, part.weight, part.bias), whole[:, columns])
    assert towers.linear(x[:0], layer.weight, layer.bias).shape == (0, 96)


def test_a_quantised_weight_refuses_other_products(draw) -> None:
    weight = QuantisedWeight.of(draw(8, 8))
    with pytest.raises(TypeError, match="cannot read a quantised weight"):
        F.linear(draw(2, 8), weight)


@pytest.mark.parametrize("isa", ["serial", "avx2", "avx512", "avx512_bf16"])
def test_towers_with_outlier_channels(isa, monkeypatch) -> None:
    """Residual channels far above the others, which the norms scale down again, as trained ones do."""
    if isa not in cpu.cpu_features() and isa not in ("serial", "avx512"):
        pytest.skip(f"this processor lacks {isa}")
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
