"""open_clip's own model: eager, and through torch.compile."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.peers import Prepared
from benchmarks.peers.modules import DTYPES, import_open_clip, open_clip_model, tower_inputs
from benchmarks.work import ORACLE_ROWS, Work


def requires(work: Work) -> tuple[str, ...]:
    return ("open_clip",)


def variants(work: Work) -> tuple[str, ...]:
    return ("eager",) if work.task == "model_load" else ("eager", "compiled")


def prepare(work: Work, variant: str) -> Prepared:
    torch.set_num_threads(work.threads)
    if work.task == "model_load":
        return _load(work)
    model = _model(work)
    values = tower_inputs(work)
    encode = model.encode_text if work.task == "texts" else model.encode_image
    if variant == "compiled":
        encode = torch.compile(encode)

    def call() -> torch.Tensor:
        with torch.inference_mode():
            return encode(values, normalize=True)

    return Prepared(call, work.batch, lambda: call().float().numpy())


@cache
def _model(work: Work) -> torch.nn.Module:
    return open_clip_model(work).to(DTYPES[work.precision])


def _load(work: Work) -> Prepared:
    open_clip = import_open_clip()
    name = f"local-dir:{Path(work.weights)}"

    def load() -> torch.nn.Module:
        return open_clip.create_model(name)

    def result() -> object:
        images = Work("images", "fp32", ORACLE_ROWS, work.threads, work.model, work.weights)
        with torch.inference_mode():
            return F.normalize(load().encode_image(tower_inputs(images)), dim=-1).numpy()

    return Prepared(load, 1, result)
