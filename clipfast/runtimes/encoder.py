"""The engine's `Encoder` over two exported towers, whichever runtime computes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from clipfast.config import ModelConfig
from clipfast.errors import CheckpointError, UnsupportedError
from clipfast.inputs.packing import TextBatch
from clipfast.runtimes.metadata import TOWERS, TowerMetadata, TowerName


class Tower(Protocol):
    """One exported tower on one device. Safe to call from several threads."""

    metadata: TowerMetadata

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """(B, *metadata.row_shape) in the dtype that was exported -> (B, E) float32 unit rows, on `device`."""
        ...


class RuntimeEncoder:
    """Exported towers as an encoder. Rows leave with unit length: the exports end with their norm."""

    shares_prefixes = False
    unit_rows = True

    def __init__(
        self, towers: Mapping[TowerName, Tower], device: torch.device, source: str
    ) -> None:
        """Args: towers: one or both, of one model.

        Raises:
            CheckpointError: the two towers are not of one model.
        """
        self._towers = dict(towers)
        self._source = source
        self.device = device
        described = [tower.metadata for tower in towers.values()]
        self.config: ModelConfig = described[0].config
        self.logit_scale = described[0].logit_scale
        if any(
            (m.config, m.fingerprint) != (self.config, described[0].fingerprint) for m in described
        ):
            raise CheckpointError(
                f"{source}: its image and text towers come from different weights; export both again"
            )

    @property
    def metadata(self) -> TowerMetadata:
        """Of the first tower: what both share."""
        return next(iter(self._towers.values())).metadata

    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, R, R) uint8, or normalised float where the tower was exported for that -> (B, E) float32."""
        tower = self._tower("image")
        if tower.metadata.pixels == "uint8":
            if pixels.dtype != torch.uint8:
                raise UnsupportedError(
                    f"{self._source} was exported for uint8 pixels and got {pixels.dtype}; pass uint8, or "
                    'export with input="float"'
                )
            return tower(pixels)
        return tower(self._normalised(pixels))

    def encode_texts(self, batch: TextBatch) -> torch.Tensor:
        """The batch's B texts, packed without a tree -> (B, E) float32."""
        tower = self._tower("text")
        padded = unpack(batch, self.config.text.context_length)
        return tower(torch.from_numpy(padded))

    def _normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        if pixels.dtype != torch.uint8:
            return pixels.float()
        preprocess = self.config.preprocess
        mean, std = (
            torch.tensor(values, device=pixels.device).view(1, 3, 1, 1)
            for values in (preprocess.mean, preprocess.std)
        )
        return (pixels.float() / 255 - mean) / std

    def _tower(self, name: TowerName) -> Tower:
        if name not in self._towers:
            other = TOWERS[1 - TOWERS.index(name)]
            raise UnsupportedError(
                f'{self._source} holds only the {other} tower; export with tower={name!r} or "both"'
            )
        return self._towers[name]


def unpack(batch: TextBatch, context_length: int) -> npt.NDArray[np.int32]:
    """The texts of a packed batch as (B, context_length) int32, zero padded."""
    lengths = np.diff(batch.cu_seqlens)
    padded = np.zeros((len(lengths), context_length), np.int32)
    padded[np.arange(context_length) < lengths[:, None]] = batch.ids
    return padded
