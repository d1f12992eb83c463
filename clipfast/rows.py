"""Results that arrive in pieces, laid down at their positions in the input."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from clipfast.ops import Tensor


class RowsInOrder:
    """An (N, width) matrix that is filled by position; what is left out stays NaN. Grows when N is not known."""

    def __init__(self, width: int, expected: int | None, device: torch.device | str | None) -> None:
        """device: where the matrix lies; None is where its first rows come, the CPU when none do."""
        self._width = width
        self._expected = expected
        self._device = device
        self._count = 0
        self._rows: Tensor | None = None

    def put(self, positions: Sequence[int], rows: Tensor) -> None:
        """Rows (len(positions), width) at their positions; the first ones decide the dtype."""
        if not positions:
            return
        self._reserve(max(positions) + 1, rows)
        assert self._rows is not None
        first, last = positions[0], positions[-1]
        if last - first + 1 == len(positions):
            self._rows[first : last + 1] = rows
        else:
            device = self._rows.device
            self._rows[torch.tensor(positions, device=device)] = rows.to(device)

    def leave_out(self, positions: Sequence[int]) -> None:
        """These positions exist and have no row."""
        self._count = max([self._count, *(position + 1 for position in positions)])

    def finish(self) -> Tensor:
        """The matrix: (N, width), N the largest position + 1."""
        if self._rows is None:
            return torch.full((self._count, self._width), torch.nan, device=self._device)
        self._reserve(self._count, self._rows)
        return self._rows[: self._count]

    def _reserve(self, count: int, like: Tensor) -> None:
        self._count = max(self._count, count)
        held = 0 if self._rows is None else len(self._rows)
        if self._count > held:
            capacity = max(self._count, self._expected or 2 * held)
            size, device = (capacity, self._width), self._device or like.device
            grown = torch.full(size, torch.nan, dtype=like.dtype, device=device)
            if self._rows is not None:
                grown[:held] = self._rows
            self._rows = grown
