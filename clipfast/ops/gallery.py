"""Operations between embeddings: of queries and a gallery, of images and texts."""

from __future__ import annotations

from typing import Protocol

import torch

Tensor = torch.Tensor


class Similarity(Protocol):
    def __call__(self, queries: Tensor, keys: Tensor, scale: float) -> Tensor:
        """p = softmax over keys of scale * cos(query, key); rows of both are L2-normalised first.

        Args:
            queries: (M, E) floating point. keys: (N, E), same dtype. scale: e.g. 100.0.
        Returns: (M, N) float32, rows sum to 1.
        Source: Radford et al. 2021, arXiv:2103.00020, figure 3.
        """
        ...


class TopK(Protocol):
    def __call__(self, queries: Tensor, gallery: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k largest cosines of each query over the gallery; ties go to the lower index.

        A row with NaN or an infinity has NaN cosines, which rank below every number (failed inputs never match).

        Args:
            queries: (M, E) floating point. gallery: (N, E), k <= N. Rows are L2-normalised first.
        Returns: scores (M, k) float32 descending, indices (M, k) int64. Memory O(M k), never M x N.
        """
        ...


class LogSumExp(Protocol):
    def __call__(self, queries: Tensor, keys: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """log sum exp of scale * cos(query, key) over keys (rows) and over queries (columns), in one pass.

        Returns: rows (M,) float32, columns (N,) float32; M x N is never materialised.
        """
        ...
