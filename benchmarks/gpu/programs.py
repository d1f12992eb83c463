"""What torch's compiler makes of the plain towers: which programs take part in a cell, and that none is silently eager.

torch.compile keeps what it compiled by code object, and every tower of a kind has the same one: after
`recompile_limit` of them (8) it would run the next ones eagerly, with a warning. Here that is an error.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.gpu.towers import ScaledLayer

Tower = Callable[[torch.Tensor], torch.Tensor]
LIMIT = 64


@dataclass(frozen=True)
class Program:
    """One way to compile. scaled: in fp8. mode: torch.compile's. seconds: a layer takes to compile, at most."""

    name: str
    scaled: bool = False
    mode: str | None = None
    seconds: float = 3.0


DEFAULT = Program("torch.compile")
FP8 = Program("torch.compile fp8", scaled=True)
WITH_GRAPHS = Program("torch.compile reduce-overhead", mode="reduce-overhead")
AUTOTUNED = Program("torch.compile max-autotune", mode="max-autotune", seconds=5.0)
PROGRAMS = {program.name: program for program in (DEFAULT, FP8, WITH_GRAPHS, AUTOTUNED)}


def programs(*, has_fp8: bool, batch: int = 0, largest: int = 0) -> list[Program]:
    """A cell's programs, the quickest to compile first: graphs where launches are the time, autotuning in the largest
    batch. A batch of 0 is one of texts."""
    found = [DEFAULT, *([FP8] if has_fp8 else [])]
    found += [WITH_GRAPHS] if batch == 1 else []
    return found + ([AUTOTUNED] if batch and batch == largest else [])


def compiled(
    tower: Callable[..., torch.nn.Module], program: Program, *given: Any, backend: str
) -> Tower:
    """The tower of `given` weights and config, compiled by the program; whole, or not at all.

    backend: "inductor", or "eager" for what is traced without being compiled.
    """
    limits = torch._dynamo.config  # noqa: SLF001
    limits.recompile_limit = LIMIT
    limits.fail_on_recompile_limit_hit = True
    module = tower(*given, *([ScaledLayer] if program.scaled else [])).eval()
    mode = program.mode if backend == "inductor" else None
    made: Tower = torch.compile(module, dynamic=False, fullgraph=True, mode=mode, backend=backend)
    return made


def forget() -> None:
    """Drops what was compiled, and its graphs' memory."""
    torch._dynamo.reset()  # noqa: SLF001
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
