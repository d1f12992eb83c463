"""The engine's section of `make gpu` as a GPU would run it, on a CPU that pretends: every figure is there."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch

from benchmarks.gpu import cell, contestants, programs
from benchmarks.gpu.context import Context
from benchmarks.gpu.plan import Choice
from benchmarks.gpu.processes import Row
from benchmarks.gpu.sections import engine

OURS = {"host us", "replay us", "host us beyond replay"}
ALL = {"ok", "cosine", "MiB", "ms", "p20", "p80", "n", "items/s", "TFLOPS", "of matmul"}


class Pretended(Context):
    rehearsal = False


class Event:
    """torch.cuda.Event's part in timing."""

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return 1e3 * (end.at - self.at)


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    for name in ("reset_peak_memory_stats", "memory_allocated", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda: 0)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(cell, "SECONDS", 0.01)
    monkeypatch.setattr(engine, "measure_ceilings", lambda _: {"flops": 1e12})
    monkeypatch.setattr(engine, "measure_fp8_ceiling", lambda _: float("nan"))
    compiled = programs.compiled

    def traced(*given: object, backend: str) -> programs.Tower:
        assert backend == "inductor"
        return compiled(*given, backend="eager")

    monkeypatch.setattr(contestants, "compiled", traced)
    return Pretended(torch.device("cpu"), time.monotonic() + 900)


@pytest.mark.slow
def test_every_figure_of_a_cell(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead: list[tuple[int, ...]] = []

    def compile_side_by_side(choice: Choice, *_: object) -> list[Row]:
        ahead.append(choice.batches)
        return []

    monkeypatch.setattr(engine, "compile_side_by_side", compile_side_by_side)
    libraries = ("transformers", "timm", "open_clip")
    options = Choice("tiny", (1, 2), ("bf16", "fp8"), libraries).options()
    with torch._dynamo.config.patch(recompile_limit=8, fail_on_recompile_limit_hit=False):
        rows = list(engine.run(replace(context, options=tuple(options))))
    programs.forget()
    assert ahead == [(1, 2)]
    last = {row["name"]: row for row in rows}
    assert last["tiny torch matmul 8192^3"]["TFLOPS"] == 1
    for batch, graphs in ((1, "reduce-overhead"), (2, "max-autotune")):
        name = f"tiny batch {batch}"
        assert set(last[f"{name}, clipfast bf16"]) == {"name", *ALL, *OURS}
        assert set(last[f"{name}, torch eager"]) == {"name", *ALL}
        for program in ("torch.compile", f"torch.compile {graphs}"):
            assert set(last[f"{name}, {program}"]) == {"name", "compile s", *ALL}
        assert "no fp8 kernels" in last[f"{name}, clipfast fp8"]["outcome"]
    # Before anything was compiled, both batches were known.
    names = [row["name"] for row in rows if "ms" in row]
    assert names[:4] == [
        f"tiny batch {batch}, {who}" for batch in (1, 2) for who in ("clipfast bf16", "torch eager")
    ]
