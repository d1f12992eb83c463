"""Plain torch: a matrix product, then softmax or topk."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks import work as inputs
from benchmarks.peers import Prepared
from benchmarks.work import Work


def requires(work: Work) -> tuple[str, ...]:
    return ("torch",)


def variants(work: Work) -> tuple[str, ...]:
    return ("eager",)


def prepare(work: Work, variant: str) -> Prepared:
    """Rows have unit length already, so torch is spared the normalisation that ours does."""
    torch.set_num_threads(work.threads)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[work.precision]
    queries = torch.from_numpy(inputs.embeddings(work.batch, seed=1)).to(dtype)
    gallery = torch.from_numpy(inputs.embeddings(work.gallery, seed=2)).to(dtype)

    def similarity() -> Any:
        with torch.inference_mode():
            return (inputs.SCALE * (queries @ gallery.T).float()).softmax(dim=-1)

    def search() -> Any:
        with torch.inference_mode():
            return (queries @ gallery.T).topk(inputs.K).indices

    call = similarity if work.task == "similarity" else search
    return Prepared(call, work.batch, lambda: call().numpy())
