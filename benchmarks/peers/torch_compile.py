"""torch.compile of transformers' towers (open_clip's for ResNets), weights frozen."""

from __future__ import annotations

from functools import cache

import torch

from benchmarks.peers import Prepared
from benchmarks.peers.modules import longest, tower, tower_inputs
from benchmarks.work import Work, has_resnet


def requires(work: Work) -> tuple[str, ...]:
    return ("torch",)


def variants(work: Work) -> tuple[str, ...]:
    return ("default", "max-autotune")


def prepare(work: Work, variant: str) -> Prepared:
    """One static shape; texts cut to the longest of the batch, which is exact."""
    import torch._inductor.config as inductor

    torch.set_num_threads(work.threads)
    inductor.freezing = True
    module = _tower(work)
    torch.compiler.reset()
    compiled = torch.compile(module, mode=variant, dynamic=False)
    values = tower_inputs(work, length=longest(work) if work.task == "texts" else None)
    if work.task == "images" and has_resnet(work):
        values = values.to(memory_format=torch.channels_last)

    def call() -> torch.Tensor:
        with torch.no_grad():
            return compiled(values)

    return Prepared(call, work.batch, lambda: call().float().numpy())


@cache
def _tower(work: Work) -> torch.nn.Module:
    module = tower(work)
    return module.to(memory_format=torch.channels_last) if has_resnet(work) else module
