"""What is done with embeddings: similarity, nearest neighbours, the contrastive loss. Each in one fused pass."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from clipfast import environment
from clipfast.backends import select_ops
from clipfast.errors import InputError
from clipfast.ops import Ops, Tensor

Embeddings = Tensor | npt.NDArray[Any]


def similarity(queries: Embeddings, keys: Embeddings, scale: float) -> Tensor:
    """softmax over keys of scale * cos(query, key).

    Args:
        queries: (M, E) floating point, torch or numpy; rows need not be normalised.
        keys: (N, E), N >= 1.
        scale: e.g. `model.logit_scale`.
    Returns: (M, N) float32 (float64 for float64 inputs), rows sum to 1, on the inputs' device.
    Raises: InputError wrong_type or wrong_shape.
    Source: Radford et al. 2021, arXiv:2103.00020, figure 3.
    Equivalent to: `(scale * normalize(queries) @ normalize(keys).T).softmax(dim=-1)`
    """
    left, right, ops = _pair(queries, keys)
    if not len(right):
        raise InputError("there are no keys, expected at least one row", code="wrong_shape")
    with _current(left):
        return ops.similarity(left, right, float(scale))


def top_k(queries: Embeddings, gallery: Embeddings, k: int = 10) -> tuple[Tensor, Tensor]:
    """The k gallery rows of largest cosine to each query.

    Args:
        queries: (M, E) floating point, torch or numpy (memory-mapped too); rows need not be normalised.
        gallery: (N, E), same dtype or wider or narrower; N >= k.
    Returns: scores (M, k) float32 cosines, descending; indices (M, k) int64, the lower one first among equals.
    Raises: InputError wrong_type or wrong_shape.
    Equivalent to: `(normalize(queries) @ normalize(gallery).T).topk(k)`, without the (M, N) matrix.
    """
    left, right, ops = _pair(queries, gallery)
    if not 1 <= k <= len(right):
        raise InputError(
            f"k={k} with a gallery of {len(right)} rows: expected 1 <= k <= {len(right)}",
            code="wrong_shape",
        )
    with _current(left):
        return ops.top_k(left, right, int(k))


def contrastive_loss(
    image_embeddings: Embeddings, text_embeddings: Embeddings, scale: float
) -> float:
    """CLIP's symmetric cross-entropy over a batch of pairs, row i of one with row i of the other.

    Args:
        image_embeddings, text_embeddings: (N, E), N >= 1; rows need not be normalised.
        scale: e.g. `model.logit_scale`.
    Raises: InputError wrong_type or wrong_shape.
    Source: Radford et al. 2021, arXiv:2103.00020, figure 3.
    Equivalent to: the mean of cross_entropy(logits, arange(N)) and cross_entropy(logits.T, arange(N)).
    """
    images, texts, ops = _pair(image_embeddings, text_embeddings)
    if len(images) != len(texts) or not len(images):
        raise InputError(
            f"got {len(images)} images and {len(texts)} texts, expected as many of each, at least one",
            code="wrong_shape",
        )
    with _current(images):
        rows, columns = ops.log_sum_exp(images, texts, float(scale))
    wide = rows.dtype
    pairs = scale * torch.cosine_similarity(images.to(wide), texts.to(wide), dim=-1, eps=1e-12)
    return float(((rows + columns).double() / 2 - pairs.double()).mean())


def _pair(left: Embeddings, right: Embeddings) -> tuple[Tensor, Tensor, Ops]:
    """Both as matrices of one device and dtype, and the operations that serve them there."""
    a, b = _matrix(left, "first"), _matrix(right, "second")
    if a.shape[1] != b.shape[1]:
        raise InputError(
            f"rows have {a.shape[1]} and {b.shape[1]} columns, expected embeddings of one model",
            code="wrong_shape",
        )
    if a.device != b.device:
        raise InputError(
            f"tensors are on {a.device} and {b.device}, expected one device", code="wrong_type"
        )
    if a.dtype != b.dtype:
        a = a.to(b.dtype)
    return a, b, _ops(a.device, a.dtype, environment.isa())


def _current(tensor: Tensor) -> AbstractContextManager[object]:
    """While it is open, this thread launches where the tensor is."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


@cache
def _ops(device: torch.device, dtype: torch.dtype, isa: str) -> Ops:
    return select_ops("auto", device=device, dtype=dtype)


def _matrix(rows: Embeddings, which: str) -> Tensor:
    tensor = _from_numpy(rows) if isinstance(rows, np.ndarray) else rows
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise InputError(
            f"the {which} argument is {got}, expected a floating point torch tensor or numpy array",
            code="wrong_type",
        )
    if tensor.ndim != 2:
        raise InputError(
            f"the {which} argument has shape {tuple(tensor.shape)}, expected (rows, columns)",
            code="wrong_shape",
        )
    return tensor.detach()


def _from_numpy(array: npt.NDArray[Any]) -> Tensor | npt.NDArray[Any]:
    if array.dtype.kind != "f" or not array.dtype.isnative:
        return array
    with warnings.catch_warnings():
        # A read-only array (a memory-mapped gallery) is only read here.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
