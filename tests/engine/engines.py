"""Engines over random towers, without a file: what the engine's own tests drive."""

from __future__ import annotations

from functools import cache

import torch

from clipfast.backends.reference import REFERENCE
from clipfast.checkpoint.folds import fold
from clipfast.config import ModelConfig
from clipfast.encoder import TowerEncoder
from clipfast.engine import Engine
from clipfast.inputs import load_tokenizer
from tests.weights import random_weights, tiny


@cache
def tiny_engine(
    dtype: torch.dtype = torch.float64, *, batch_invariant: bool = False, seed: int = 0
) -> Engine:
    config: ModelConfig = tiny()
    parameters = fold(random_weights(config, seed=seed), config, dtype)
    encoder = TowerEncoder(config, parameters, REFERENCE, torch.device("cpu"))
    return Engine(encoder, load_tokenizer(), batch_invariant=batch_invariant)


def encode_texts(engine: Engine, texts: list[str], **options: object) -> torch.Tensor:
    defaults: dict[str, object] = {
        "batch_size": None,
        "normalize": True,
        "truncate": False,
        "share_prefixes": None,
        "progress": False,
        "output_device": None,
    }
    return engine.encode_texts(texts, **{**defaults, **options})  # type: ignore[arg-type]


def encode_images(engine: Engine, images: object, **options: object) -> torch.Tensor:
    defaults: dict[str, object] = {
        "batch_size": None,
        "normalize": True,
        "errors": "raise",
        "progress": False,
        "num_workers": None,
        "output_device": None,
    }
    return engine.encode_images(images, **{**defaults, **options})  # type: ignore[arg-type]
