"""Packed texts through graphs, where they are so few that launching the kernels is what takes the time.

A graph's input is (bucket, 3) int32: a column of tokens, one of their positions, and one that begins with where each
text begins and ends. A bucket has a quarter as many texts as tokens; those that are not there have no tokens, and
tokens that are not there belong to no text.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from clipfast.device.graphs import Graphs, ordinary
from clipfast.device.layer import DeviceLayer, Tensor

Int32 = npt.NDArray[np.int32]
# ids (T,), positions (T,), cu_seqlens (B + 1,), all int32 on the device; normalize -> (B, E).
EncodePacked = Callable[[Tensor, Tensor, Tensor, bool], Tensor]

# Up to 128, rows are what one tile has anyway; then whole tiles, and no more than an eighth beyond what was asked for
# from 1024 on. Past the last one, the products of the smallest towers take as long as their launches would: 8192 rows
# of 12 blocks of width 512 are 0.6e12 operations.
BUCKETS = (
    16, 32, 64,
    *range(128, 2048, 128),
    *range(2048, 4096, 256),
    *range(4096, 8193, 512),
)  # fmt: skip
_TOKENS_A_TEXT = 4


class DeviceTexts:
    """Graphs of one text encoder. Several threads may use them.

    Args:
        encode: nothing in it waits for the device, and texts without tokens are welcome.
    """

    def __init__(self, layer: DeviceLayer, encode: EncodePacked) -> None:
        self._layer = layer
        self._graphs = Graphs(
            layer, partial(_unpacked, encode), lambda rows: rows, (3,), BUCKETS[-1], torch.int32
        )

    @property
    def sizes(self) -> list[int]:
        """Buckets that have a graph."""
        return self._graphs.sizes

    def run(
        self, ids: Int32, positions: Int32, cu_seqlens: Int32, normalize: bool
    ) -> Tensor | None:
        """(B, E) on the device, in the order of the current stream; None where no bucket holds the texts.

        Args:
            ids, positions: (T,). cu_seqlens: (B + 1,), text b is the rows cu_seqlens[b]:cu_seqlens[b+1].
        """
        rows, texts = len(ids), len(cu_seqlens) - 1
        least = max(rows, _TOKENS_A_TEXT * texts)
        if not texts or least > BUCKETS[-1]:
            return None
        bucket = BUCKETS[bisect_left(BUCKETS, least)]
        packed = self._layer.host_buffer((bucket, 3), torch.int32)
        columns = packed.numpy()
        columns[:, :2] = 0
        columns[:rows, 0], columns[:rows, 1] = ids, positions
        columns[:, 2] = rows
        columns[: texts + 1, 2] = cu_seqlens
        moved = packed.to(self._layer.device, non_blocking=True)
        encoded = self._graphs.run(moved, normalize)[:texts]
        return ordinary(encoded) if encoded.is_inference() else encoded

    def release(self) -> None:
        """Gives graphs and their memory back."""
        self._graphs.release()


def _unpacked(encode: EncodePacked, packed: Tensor, normalize: bool) -> Tensor:
    ids, positions, bounds = packed.unbind(dim=1)
    cu_seqlens = bounds[: len(packed) // _TOKENS_A_TEXT + 1]
    return encode(ids.contiguous(), positions.contiguous(), cu_seqlens.contiguous(), normalize)
