"""Every fold is exact: folded, packed and pruned towers equal the textbook's in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from clipfast.backends.reference import REFERENCE
from clipfast.checkpoint.folds import fold
from clipfast.config import ModelConfig, PreprocessConfig, ResNetConfig
from clipfast.model import (
    TextRows,
    encode_resnet,
    encode_text,
    encode_vision,
    text_tokens,
    vision_tokens,
)
from tests.model.textbook import Textbook
from tests.tolerances import FOLDS_FLOAT64
from tests.weights import random_weights, tiny, tiny_resnet

CONFIGS = {
    "vit-gelu": tiny("gelu"),
    "vit-quick_gelu": tiny("quick_gelu"),
    "vit-other-normalisation": replace(
        tiny(), preprocess=PreprocessConfig(mean=(0.1, 0.5, 0.9), std=(0.2, 0.5, 1.0))
    ),
    "resnet": tiny_resnet(),
}


def pixels_for(config: ModelConfig, count: int = 3) -> torch.Tensor:
    size = config.vision.image_size
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def padded_ids(config: ModelConfig, lengths: list[int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    eot = config.text.eot_id
    ids = torch.zeros(len(lengths), config.text.context_length, dtype=torch.int32)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = torch.randint(1, eot - 1, (length,), generator=generator)
        row[length - 1] = eot
    return ids


def packed(ids: torch.Tensor, eot_id: int) -> TextRows:
    lengths = (ids == eot_id).int().argmax(dim=1) + 1
    rows = torch.cat([row[:length] for row, length in zip(ids, lengths, strict=True)])
    positions = torch.cat([torch.arange(int(n), dtype=torch.int32) for n in lengths])
    cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]).int()
    return TextRows(rows, positions, cu_seqlens)


def encode_image(
    config: ModelConfig, tensors: dict[str, torch.Tensor], pixels: torch.Tensor
) -> torch.Tensor:
    p = fold(tensors, config, torch.float64).vision
    if isinstance(config.vision, ResNetConfig):
        return encode_resnet(p, config.vision, REFERENCE, pixels)
    return encode_vision(p, config.vision, REFERENCE, pixels)


def relative_error(got: torch.Tensor, truth: torch.Tensor) -> float:
    return float((got - truth).abs().max() / truth.abs().max())


@pytest.mark.parametrize("name", CONFIGS)
def test_image_tower_equals_textbook(name: str) -> None:
    config = CONFIGS[name]
    tensors = random_weights(config, seed=0)
    pixels = pixels_for(config)
    textbook = Textbook(tensors, config)
    truth = textbook.image(pixels)
    assert relative_error(encode_image(config, tensors, pixels), truth) < FOLDS_FLOAT64
    normalised = textbook.normalised(pixels)
    assert relative_error(encode_image(config, tensors, normalised), truth) < FOLDS_FLOAT64


@pytest.mark.parametrize("name", ["vit-gelu", "vit-quick_gelu"])
def test_packed_text_tower_equals_padded_textbook(name: str) -> None:
    config = CONFIGS[name]
    tensors = random_weights(config, seed=0)
    ids = padded_ids(config, [2, 5, config.text.context_length, 5, 3])
    p = fold(tensors, config, torch.float64).text
    got = encode_text(p, config.text, REFERENCE, packed(ids, config.text.eot_id))
    assert relative_error(got, Textbook(tensors, config).text(ids)) < FOLDS_FLOAT64


def test_hidden_states_equal_textbook() -> None:
    config = CONFIGS["vit-quick_gelu"]
    tensors = random_weights(config, seed=0)
    p = fold(tensors, config, torch.float64)
    textbook = Textbook(tensors, config)
    pixels = pixels_for(config)
    for layers, truth in enumerate(textbook.image_tokens(textbook.normalised(pixels))):
        got = vision_tokens(p.vision, config.vision, REFERENCE, pixels, layers)
        assert relative_error(got, truth) < FOLDS_FLOAT64
    ids = padded_ids(config, [config.text.context_length] * 2)
    rows = packed(ids, config.text.eot_id)
    for layers, truth in enumerate(textbook.text_tokens(ids)):
        got = text_tokens(p.text, config.text, REFERENCE, rows, layers, final_norm=False)
        assert relative_error(got.view(truth.shape), truth) < FOLDS_FLOAT64


def test_folded_parameters_own_their_memory() -> None:
    config = CONFIGS["vit-gelu"]
    tensors = random_weights(config, seed=0)
    p = fold(tensors, config, torch.float32)
    before = p.text.token_embedding.clone()
    tensors["token_embedding.weight"].zero_()
    assert torch.equal(p.text.token_embedding, before)
    assert p.logit_scale == pytest.approx(float(tensors["logit_scale"].exp()))
