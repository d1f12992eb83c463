"""Whole towers on the cpu backend beside float64: packed weights, every instruction set, packed and shared texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from clipfast.backends import select_ops
from clipfast.backends.cpu_panels import PanelWeight
from clipfast.backends.reference import REFERENCE
from clipfast.checkpoint.folds import fold
from clipfast.config import ARCHITECTURES, ModelConfig
from clipfast.environment import ISAS
from clipfast.model import encode_text, encode_vision, vision_tokens
from clipfast.ops import Ops
from clipfast.parameters import Parameters
from tests.kernels.towers import packed, shared
from tests.native.kernels import kernels_for, needs_native
from tests.random_weights import random_weights
from tests.tolerances import CPU_TOWER_COSINE

pytestmark = needs_native
CPU = torch.device("cpu")
TEXTS = [[3, 1, 4, 1, 9], [3, 1, 4, 1, 5, 9], [2, 7], [3, 1, 4, 2, 9], list(range(1, 17))]


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    base = ARCHITECTURES["ViT-B-32"]
    vision = replace(base.vision, layers=3, width=128, heads=2, image_size=96)
    text = replace(base.text, layers=3, width=64, heads=1, vocab_size=64, context_length=16)
    return replace(base, vision=vision, text=text, embed_dim=64)


Run = Callable[[Parameters, Ops], torch.Tensor]


def _runs(config: ModelConfig) -> dict[str, Run]:
    pixels = torch.randint(0, 256, (4, 3, 96, 96), generator=torch.Generator().manual_seed(0))
    pixels = pixels.to(torch.uint8)
    return {
        "images": lambda p, ops: encode_vision(p.vision, config.vision, ops, pixels),
        "tokens": lambda p, ops: vision_tokens(p.vision, config.vision, ops, pixels, 3).flatten(1),
        "packed": lambda p, ops: encode_text(p.text, config.text, ops, packed(TEXTS, CPU)),
        "tree": lambda p, ops: encode_text(p.text, config.text, ops, shared(TEXTS, CPU)),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("isa", [isa for isa in ISAS if isa != "auto"])
def test_as_close_to_float64_as_torch(
    config: ModelConfig, isa: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels_for(isa)
    monkeypatch.setenv("CLIPFAST_ISA", isa)
    ops = select_ops("cpu", device=CPU, dtype=dtype)
    weights = random_weights(config, seed=3)
    prepared = fold(weights, config, dtype, ops.prepare)
    plain, exact = fold(weights, config, dtype), fold(weights, config, torch.float64)
    for name, run in _runs(config).items():
        truth = run(exact, REFERENCE)
        ours, torchs = (
            F.cosine_similarity(rows.double(), truth).min().item()
            for rows in (run(prepared, ops), run(plain, REFERENCE))
        )
        print(f"{name}: 1 - cosine {1 - ours:.1e}, torch {1 - torchs:.1e}")
        assert 1 - ours <= 2 * (1 - torchs) + CPU_TOWER_COSINE


def test_prepared_weights_replace_the_plain_ones(config: ModelConfig) -> None:
    ops = select_ops("cpu", device=CPU, dtype=torch.float32)
    vision = fold(random_weights(config, seed=3), config, torch.float32, ops.prepare).vision
    for block in vision.blocks:
        for layer in (block.qkv, block.out_proj, block.c_fc, block.c_proj):
            assert isinstance(layer.weight, PanelWeight) or layer.weight.is_mkldnn
    assert isinstance(vision.patch_embed.weight, PanelWeight) or vision.patch_embed.weight.is_mkldnn
    assert isinstance(vision.proj.weight, PanelWeight) or vision.proj.weight.is_mkldnn
