"""How far a contestant's result is from float64 on the same weights and inputs."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch

import clipfast
from benchmarks import work as inputs
from benchmarks.work import ORACLE_ROWS, TEXT_TASKS, Task, Work

Array = np.ndarray[Any, Any]


def accuracy(work: Work, result: Array) -> dict[str, float]:
    """One figure with its name: the lowest cosine of the first rows of embeddings, the largest difference of
    probabilities, or the share of the k neighbours that are the exact ones."""
    truth = _truth(work)
    rows = result[: len(truth)].astype(np.float64)
    if work.task == "similarity":
        return {"max_abs_error": float(np.abs(rows - truth).max())}
    if work.task == "top_k":
        found = [len(set(a) & set(b)) for a, b in zip(rows, truth, strict=True)]
        return {"recall": float(np.sum(found) / truth.size)}
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(truth, axis=1)
    return {"cosine": float(((rows * truth).sum(axis=1) / norms).min())}


def _truth(work: Work) -> Array:
    if work.task in ("similarity", "top_k"):
        return _scores(work.task, work.batch, work.gallery)
    kind = work.task if work.task in TEXT_TASKS else "images"
    count = ORACLE_ROWS if work.task == "model_load" else min(ORACLE_ROWS, work.batch)
    return _embeddings(work.weights, kind)[:count]


@cache
def _embeddings(weights: str, kind: Task) -> Array:
    model = clipfast.load(weights, precision="fp64", backend="reference")
    if kind in TEXT_TASKS:
        return model.encode_texts(inputs.texts(kind, ORACLE_ROWS)).double().numpy()
    pixels = inputs.pixels(ORACLE_ROWS, model.config.vision.image_size)
    return model.encode_images(pixels).double().numpy()


@cache
def _scores(task: str, batch: int, gallery: int) -> Array:
    """Of float32 inputs, in float64, a slice of the gallery at a time."""
    queries = torch.from_numpy(inputs.embeddings(batch, seed=1))[:ORACLE_ROWS].double()
    keys = torch.from_numpy(inputs.embeddings(gallery, seed=2))
    queries = torch.nn.functional.normalize(queries, dim=1)
    cosines = torch.cat(
        [
            queries @ torch.nn.functional.normalize(part.double(), dim=1).T
            for part in keys.split(65536)
        ],
        dim=1,
    )
    if task == "similarity":
        return (inputs.SCALE * cosines).softmax(dim=1).numpy()
    return cosines.topk(inputs.K).indices.numpy()
