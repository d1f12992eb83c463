"""Ours, through the public API alone: uint8 pixels and strings in, unit rows out, preparation included."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

import clipfast
from benchmarks import work as inputs
from benchmarks.peers import Prepared
from benchmarks.work import TEXT_TASKS, Work

_AT_ONCE = {"one batch": 1, "two batches at once": 2}


def requires(work: Work) -> tuple[str, ...]:
    return ("clipfast",)


def variants(work: Work) -> tuple[str, ...]:
    return tuple(_AT_ONCE) if work.task == "images" else ("default",)


def prepare(work: Work, variant: str) -> Prepared:
    torch.set_num_threads(work.threads)
    if work.task in ("similarity", "top_k"):
        return _scoring(work)
    if work.task == "model_load":
        return _load(work)
    model = _model(work.weights, work.precision)
    if work.task in TEXT_TASKS:
        texts = inputs.texts(work.task, work.batch)
        return Prepared(
            lambda: model.encode_texts(texts),
            work.batch,
            lambda: model.encode_texts(texts).numpy(),
        )
    pixels = inputs.pixels(work.batch, model.config.vision.image_size)
    batches = np.concatenate([pixels] * _AT_ONCE[variant])

    def encode_images() -> torch.Tensor:
        return model.encode_images(batches, batch_size=work.batch)

    def result() -> object:
        return encode_images()[: work.batch].numpy()

    return Prepared(encode_images, len(batches), result)


@cache
def _model(weights: str, precision: str) -> clipfast.Model:
    return clipfast.load(weights, precision=precision)


def _load(work: Work) -> Prepared:
    def result() -> object:
        model = clipfast.load(work.weights, precision=work.precision)
        pixels = inputs.pixels(inputs.ORACLE_ROWS, model.config.vision.image_size)
        return model.encode_images(pixels).numpy()

    return Prepared(lambda: clipfast.load(work.weights, precision=work.precision), 1, result)


def _scoring(work: Work) -> Prepared:
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[work.precision]
    queries = torch.from_numpy(inputs.embeddings(work.batch, seed=1)).to(dtype)
    gallery = torch.from_numpy(inputs.embeddings(work.gallery, seed=2)).to(dtype)

    def similarity() -> torch.Tensor:
        return clipfast.similarity(queries, gallery, inputs.SCALE)

    def search() -> torch.Tensor:
        return clipfast.top_k(queries, gallery, inputs.K)[1]

    call = similarity if work.task == "similarity" else search
    return Prepared(call, work.batch, lambda: call().numpy())
