"""The programs that `make gpu` compares with compute what openai/CLIP does: no peer is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.exc import FailOnRecompileLimitHit

from benchmarks.gpu import programs
from benchmarks.gpu.libraries import TEXT, VISION, library_towers
from benchmarks.gpu.towers import ResNetTower, ScaledLayer, TextTower, VisionTower, narrowed
from clipfast.config import ModelConfig
from clipfast.inputs import load_tokenizer
from tests.model.textbook import Textbook
from tests.random_weights import random_weights, tiny, tiny_resnet
from tests.tolerances import TOWER_FLOAT32

CPU = torch.device("cpu")
CONFIGS = [tiny("gelu"), tiny("quick_gelu"), tiny_resnet()]
IDS = ["gelu", "quick_gelu", "resnet"]


def images() -> torch.Tensor:
    return torch.randn(3, 3, 64, 64, dtype=torch.float64)


def ids() -> torch.Tensor:
    return torch.from_numpy(load_tokenizer().tokenize(["a cat", "two dogs in snow"])).long()


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
def test_plain_towers_are_the_textbook(config: ModelConfig) -> None:
    weights = random_weights(config, seed=0)
    plain = narrowed(weights, torch.float64, CPU)
    textbook = Textbook(weights, config)
    pixels, tokens = images(), ids()
    vision = ResNetTower if config.name == "tiny-resnet" else VisionTower
    expected = F.normalize(textbook.image(pixels), dim=-1)
    assert (vision(plain, config)(pixels) - expected).abs().max() < TOWER_FLOAT32
    expected = F.normalize(textbook.text(tokens), dim=-1)
    assert (TextTower(plain, config)(tokens) - expected).abs().max() < TOWER_FLOAT32


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
@pytest.mark.parametrize("library", VISION)
def test_towers_of_libraries_are_the_textbook(library: str, config: ModelConfig) -> None:
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    weights = random_weights(config, seed=0)
    textbook = Textbook(weights, config)
    tower = library_towers("vision", weights, config, torch.float64, CPU)[library]
    if (library, config.name) == ("transformers", "tiny-resnet"):
        assert tower == "ValueError: transformers has no CLIP ResNet"
        return
    assert isinstance(tower, torch.nn.Module)
    pixels, tokens = images(), ids()
    expected = F.normalize(textbook.image(pixels), dim=-1)
    assert (tower(pixels) - expected).abs().max() < TOWER_FLOAT32
    if library in TEXT:
        tower = library_towers("text", weights, config, torch.float64, CPU)[library]
        assert isinstance(tower, torch.nn.Module)
        expected = F.normalize(textbook.text(tokens), dim=-1)
        assert (tower(tokens) - expected).abs().max() < TOWER_FLOAT32


def test_scaled_layer_holds_the_weight_in_8_bits() -> None:
    weight = torch.randn(32, 64)
    layer = ScaledLayer(weight, None)
    back = layer.weight.float() * layer.scale.T
    assert layer.weight.dtype == torch.float8_e4m3fn
    assert ((back - weight).abs() <= weight.abs() / 16 + 1e-3).all()


@pytest.fixture
def compiler() -> Iterator[None]:
    """torch's compiler with nothing compiled, and as it was afterwards."""
    limits = torch._dynamo.config
    programs.forget()
    with limits.patch(recompile_limit=8, fail_on_recompile_limit_hit=False):
        yield
    programs.forget()


@pytest.mark.usefixtures("compiler")
def test_no_program_runs_eagerly_past_the_compiler_s_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "LIMIT", 2)
    config = tiny(layers=1)
    plain = narrowed(random_weights(config, seed=0), torch.float32, CPU)
    tower = VisionTower(plain, config)

    def is_right(batch: int) -> bool:
        one = programs.compiled(VisionTower, programs.DEFAULT, plain, config, backend="eager")
        pixels = torch.randn(batch, 3, 64, 64)
        return torch.allclose(one(pixels), tower(pixels), atol=1e-6)

    assert is_right(1)
    assert is_right(2)
    with pytest.raises(FailOnRecompileLimitHit):
        is_right(3)
    programs.forget()  # as every cell does
    assert is_right(3)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    "tower", [VisionTower, TextTower, pytest.param(ResNetTower, marks=pytest.mark.slow)]
)
def test_towers_are_compiled_whole(tower: type[torch.nn.Module]) -> None:
    config = tiny_resnet() if tower is ResNetTower else tiny(layers=1)
    plain = narrowed(random_weights(config, seed=0), torch.float32, CPU)
    values = ids() if tower is TextTower else torch.randn(2, 3, 64, 64)
    whole = programs.compiled(tower, programs.DEFAULT, plain, config, backend="eager")
    with torch.inference_mode():
        assert torch.allclose(whole(values), tower(plain, config)(values), atol=1e-5)
