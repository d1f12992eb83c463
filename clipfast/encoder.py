"""What an engine drives: pixels to image embeddings, packed tokens to text embeddings, on one device in one dtype."""

from __future__ import annotations

from typing import Protocol

import numpy.typing as npt
import torch

from clipfast.config import ModelConfig, ResNetConfig, VisionTransformerConfig
from clipfast.inputs.packing import TextBatch
from clipfast.model import (
    TextRows,
    encode_resnet,
    encode_text,
    encode_vision,
    text_tokens,
    vision_tokens,
)
from clipfast.ops import Ops, PrefixTree, Tensor
from clipfast.parameters import Parameters, ResNet, VisionTransformer

# Images of a batch on a CPU, as measured: products are at their best rate, and memory is bounded.
CPU_IMAGES = 32
CPU_IMAGES_RESNET = 8


class Encoder(Protocol):
    """One loaded model, ours or a runtime's. Safe to call from several threads."""

    config: ModelConfig
    device: torch.device
    logit_scale: float
    shares_prefixes: bool
    """Whether encode_texts takes trees; where False it is given packed texts only."""
    unit_rows: bool
    """Whether rows leave with unit length already, so that they cannot be had un-normalised."""

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """(B, 3, R, R) uint8, or floating point and normalised -> (B, E) float32, not normalised."""
        ...

    def encode_texts(self, batch: TextBatch) -> Tensor:
        """The batch's B unique texts -> (B, E) float32, not normalised."""
        ...


class TowerEncoder:
    """Our towers over one backend's operations."""

    shares_prefixes = True
    unit_rows = False

    def __init__(
        self, config: ModelConfig, parameters: Parameters, ops: Ops, device: torch.device
    ) -> None:
        self.config = config
        self.parameters = parameters
        self.ops = ops
        self.device = device
        self._repeated = None if ops.repeated is None else ops.repeated(self._encode_vision)
        self.logit_scale = parameters.logit_scale
        self.wide = (
            torch.float64 if parameters.text.proj.weight.dtype == torch.float64 else torch.float32
        )

    @property
    def images_at_once(self) -> int:
        """Images of a batch that a CPU computes at its best."""
        return CPU_IMAGES_RESNET if isinstance(self.config.vision, ResNetConfig) else CPU_IMAGES

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        encode = self._encode_vision if self._repeated is None else self._repeated
        return encode(pixels).to(self.wide)

    def _encode_vision(self, pixels: Tensor) -> Tensor:
        p, config = self.parameters.vision, self.config.vision
        if isinstance(config, ResNetConfig):
            assert isinstance(p, ResNet)
            return encode_resnet(p, config, self.ops, pixels)
        assert isinstance(p, VisionTransformer)
        return encode_vision(p, config, self.ops, pixels)

    def release(self) -> None:
        """Gives back the memory that is kept for further batches."""
        if self._repeated is not None:
            self._repeated.forget()

    def encode_texts(self, batch: TextBatch) -> Tensor:
        return self.encode_text_rows(self.text_rows(batch))

    def encode_text_rows(self, rows: TextRows) -> Tensor:
        """`encode_texts` of rows that lie on the device."""
        return encode_text(self.parameters.text, self.config.text, self.ops, rows).to(self.wide)

    def image_tokens(self, pixels: Tensor, layers: int) -> Tensor:
        """The residual stream after `layers` blocks: (B, L, D)."""
        p, config = self.parameters.vision, self.config.vision
        assert isinstance(p, VisionTransformer)
        assert isinstance(config, VisionTransformerConfig)
        return vision_tokens(p, config, self.ops, pixels, layers).to(self.wide)

    def text_tokens(self, batch: TextBatch, layers: int, *, final_norm: bool) -> Tensor:
        """The residual stream after `layers` blocks, through ln_final when asked: (T, D)."""
        tokens = text_tokens(
            self.parameters.text,
            self.config.text,
            self.ops,
            self.text_rows(batch),
            layers,
            final_norm=final_norm,
        )
        return tokens.to(self.wide)

    def text_rows(self, batch: TextBatch) -> TextRows:
        """The batch on the device."""
        ids, positions, cu_seqlens = map(self._move, (batch.ids, batch.positions, batch.cu_seqlens))
        if batch.cu_queries is None or batch.key_rows is None:
            return TextRows(ids, positions, cu_seqlens)
        key_rows = self._move(batch.key_rows)
        tree = PrefixTree(self._move(batch.cu_queries), cu_seqlens, key_rows)
        return TextRows(ids, positions, cu_seqlens, tree, key_rows)

    def _move(self, array: npt.NDArray[object]) -> Tensor:  # type: ignore[type-var]
        return to_device(torch.from_numpy(array), self.device)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on the device. To a GPU from pinned memory, so that the host does not wait for the copy, nor
    for what runs before it."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
