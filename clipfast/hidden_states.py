"""Token-level features, for those who build on CLIP (vision-language models, latent diffusion)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from clipfast.config import ResNetConfig
from clipfast.encoder import TowerEncoder
from clipfast.engine import Engine
from clipfast.errors import ConfigurationError, UnsupportedError
from clipfast.inputs.packing import TextBatch
from clipfast.ops import Tensor

Layer = int | Literal["final"]
_TEXTS_AT_ONCE = 64


def image_tokens(engine: Engine, images: Any, layer: Layer) -> Tensor:
    """As `Model.image_tokens`."""
    encoder = _towers(engine, "image_tokens")
    vision = encoder.config.vision
    if isinstance(vision, ResNetConfig):
        raise UnsupportedError(
            f"image_tokens: {encoder.config.name} is a ResNet and has no image tokens"
        )
    layers = _blocks_before(layer, vision.layers)
    rows = engine.map_images(images, lambda pixels: encoder.image_tokens(pixels, layers))
    return torch.cat(rows) if rows else torch.empty(0, vision.tokens, vision.width)


def text_tokens(engine: Engine, texts: Sequence[str], layer: Layer, pad_id: int) -> Tensor:
    """As `Model.text_tokens`."""
    encoder = _towers(engine, "text_tokens")
    config = encoder.config.text
    layers = _blocks_before(layer, config.layers)
    ids = engine.tokenizer.tokenize(texts, config.context_length)
    is_eot = ids == config.eot_id
    ids[is_eot.cumsum(axis=1) - is_eot > 0] = pad_id
    starts = range(0, len(ids), _TEXTS_AT_ONCE)
    batches = [_whole_rows(ids[start : start + _TEXTS_AT_ONCE]) for start in starts]
    rows = [
        engine.run(
            lambda batch: encoder.text_tokens(batch, layers, final_norm=layer == "final"), batch
        )
        for batch in batches
    ]
    if not rows:
        return torch.empty(0, config.context_length, config.width)
    return torch.cat(rows).view(len(ids), config.context_length, config.width)


def _towers(engine: Engine, what: str) -> TowerEncoder:
    if not isinstance(engine.encoder, TowerEncoder):
        raise UnsupportedError(
            f"{what}: an exported engine gives embeddings only; load the weights instead"
        )
    return engine.encoder


def _blocks_before(layer: Layer, layers: int) -> int:
    """How many blocks to run for hidden_states[layer]."""
    if layer == "final":
        return layers
    if not isinstance(layer, int) or not -layers - 1 <= layer <= layers:
        raise ConfigurationError(
            f'layer={layer!r}: expected "final" or {-layers - 1} <= layer <= {layers}'
        )
    return layer % (layers + 1)


def _whole_rows(ids: npt.NDArray[np.int32]) -> TextBatch:
    """Every padded row as a text of context_length tokens: all positions are computed."""
    count, length = ids.shape
    everything = np.arange(count, dtype=np.int64)
    return TextBatch(
        ids=ids.reshape(-1),
        positions=np.tile(np.arange(length, dtype=np.int32), count),
        cu_seqlens=np.arange(0, count * length + 1, length, dtype=np.int32),
        texts=everything,
        unique=everything,
    )
