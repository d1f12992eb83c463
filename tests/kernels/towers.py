"""Whole towers on the triton backend beside float64, from token ids and pixels alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from clipfast.backends import select_ops
from clipfast.backends.reference import REFERENCE
from clipfast.checkpoint.folds import fold
from clipfast.config import ModelConfig
from clipfast.model import TextRows
from clipfast.ops import Ops, PrefixTree
from clipfast.parameters import Parameters, map_tensors
from tests.random_weights import random_weights

Texts = list[list[int]]


class Towers:
    """One model: on the triton backend in dtype on the device, and in float64 on the CPU. Random without weights."""

    def __init__(
        self,
        config: ModelConfig,
        device: torch.device,
        dtype: torch.dtype,
        weights: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        weights = random_weights(config, seed=3) if weights is None else weights
        self.config = config
        self.dtype = dtype
        self._device = device
        self._ops = select_ops("triton", device=device, dtype=dtype)
        self._parameters = map_tensors(fold(weights, config, dtype), lambda part: part.to(device))
        self._exact = fold(weights, config, torch.float64)

    def both(
        self, run: Callable[[Parameters, Ops, torch.device], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """run(parameters, ops, device): of the kernels, and of the reference in float64."""
        kernels = run(self._parameters, self._ops, self._device)
        return kernels.cpu().double(), run(self._exact, REFERENCE, torch.device("cpu"))


def packed(texts: Texts, device: torch.device) -> TextRows:
    """The texts one after another."""
    return TextRows(
        ids=_int32([token for text in texts for token in text], device),
        positions=_int32([place for text in texts for place in range(len(text))], device),
        cu_seqlens=_cumulated([len(text) for text in texts], device),
    )


def shared(texts: Texts, device: torch.device) -> TextRows:
    """The same texts with every prefix once: row r of the tree is the r-th new (prefix, token)."""
    rows: dict[tuple[int, ...], int] = {}
    new_rows, paths = [], []
    for text in texts:
        prefixes = [tuple(text[: end + 1]) for end in range(len(text))]
        before = len(rows)
        for prefix in prefixes:
            rows.setdefault(prefix, len(rows))
        new_rows.append(len(rows) - before)
        paths.append([rows[prefix] for prefix in prefixes])
    key_rows = _int32([row for path in paths for row in path], device)
    cu_keys = _cumulated([len(path) for path in paths], device)
    return TextRows(
        ids=_int32([prefix[-1] for prefix in rows], device),
        positions=_int32([len(prefix) - 1 for prefix in rows], device),
        cu_seqlens=cu_keys,
        tree=PrefixTree(_cumulated(new_rows, device), cu_keys, key_rows),
        key_rows=key_rows,
    )


def _int32(values: list[int], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device=device)


def _cumulated(counts: list[int], device: torch.device) -> torch.Tensor:
    return torch.tensor([0, *counts]).cumsum(0).to(device, torch.int32)
