"""Too little memory for a batch: it is halved, once for each failure, and the engine remembers."""

from __future__ import annotations

from collections.abc import Callable

import torch

from clipfast.device.layer import DeviceLayer, Tensor
from clipfast.errors import DeviceMemoryError

# How to cut so many items into batches of at most a limit.
Pieces = Callable[[int, int | None], list[int]]


class MemoryLimit:
    """The most items that a batch may have on one device, learnt from the batches that did not fit.

    Args:
        release: gives back what can be made again (graphs), before a batch is tried again.
    """

    def __init__(self, layer: DeviceLayer, release: Callable[[], None]) -> None:
        self._layer = layer
        self._release = release
        self.limit: int | None = None

    def run(
        self, encode: Callable[[Tensor], Tensor], items: Tensor, pieces: Pieces, most: int
    ) -> Tensor:
        """encode(items), in pieces; what is encoded already is kept when a later piece does not fit.

        Args:
            encode: (n, ...) -> (n, E), row by row.
            most: items a piece.
        Raises:
            DeviceMemoryError: one item alone does not fit.
        """
        done: list[Tensor] = []
        start, planned = 0, list[int]()
        while start < len(items):
            planned = planned or pieces(len(items) - start, self.within(most))
            whole = planned[0] == len(items)
            rows = self._attempt(encode, items if whole else items[start : start + planned[0]])
            if rows is None:
                self.halve(planned[0])
                planned = []
            else:
                done.append(rows)
                start += planned.pop(0)
        return done[0] if len(done) == 1 else torch.cat(done)

    def within(self, most: int) -> int:
        """`most`, or what is known to be left of it."""
        return most if self.limit is None else min(most, self.limit)

    def halve(self, count: int) -> None:
        """Remembers that `count` items at once do not fit, and frees what can be freed.

        Raises:
            DeviceMemoryError: count is 1.
        """
        if count <= 1:
            raise DeviceMemoryError(
                f"{self._layer.device} has too little free memory for one item; close what else uses the device, "
                "or load a smaller model"
            )
        self.limit = self.within(count // 2)
        self._release()
        self._layer.release_cached()

    def _attempt(self, encode: Callable[[Tensor], Tensor], piece: Tensor) -> Tensor | None:
        # The error ends here: its traceback would keep the failed batch's tensors alive.
        try:
            return encode(piece)
        except self._layer.out_of_memory:
            return None
