"""The plain programs that `make gpu` compares with compute what openai/CLIP does: no peer is wrong."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from benchmarks.gpu.towers import ScaledLayer, TextTower, VisionTower, narrowed
from clipfast.inputs import load_tokenizer
from tests.model.textbook import Textbook
from tests.random_weights import random_weights, tiny
from tests.tolerances import TOWER_FLOAT32

CPU = torch.device("cpu")


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_towers_are_the_textbook(activation: str) -> None:
    config = tiny(activation)
    weights = random_weights(config, seed=0)
    plain = narrowed(weights, torch.float64, CPU)
    textbook = Textbook(weights, config)
    pixels = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    expected = F.normalize(textbook.image(pixels), dim=-1)
    assert (VisionTower(plain, config)(pixels) - expected).abs().max() < TOWER_FLOAT32
    ids = torch.from_numpy(load_tokenizer().tokenize(["a cat", "two dogs in snow"])).long()
    expected = F.normalize(textbook.text(ids), dim=-1)
    assert (TextTower(plain, config)(ids) - expected).abs().max() < TOWER_FLOAT32


def test_scaled_layer_holds_the_weight_in_8_bits() -> None:
    weight = torch.randn(32, 64)
    layer = ScaledLayer(weight, None)
    back = layer.weight.float() * layer.scale.T
    assert layer.weight.dtype == torch.float8_e4m3fn
    assert ((back - weight).abs() <= weight.abs() / 16 + 1e-3).all()
