"""What a section of `make gpu` is given: the device, the time that is left, and a clock for kernels."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from shutil import which
from typing import Any

import torch

Row = dict[str, Any]
# Larger than any L2: zeroing it between repetitions makes every one of them start cold.
_COLD_BYTES = 256 << 20


@dataclass(frozen=True)
class Context:
    """device: a GPU, or the CPU in a rehearsal. deadline: of time.monotonic()."""

    device: torch.device
    deadline: float

    @property
    def rehearsal(self) -> bool:
        return self.device.type != "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """Of the matrices: bf16, and fp16 where Triton's interpreter stands in."""
        return torch.float16 if self.rehearsal else torch.bfloat16

    def seconds_left(self) -> float:
        """Until the deadline."""
        return self.deadline - time.monotonic()

    def milliseconds(
        self, function: Callable[[], object], *, seconds: float = 0.25, cold: bool = True
    ) -> Row:
        """Median, 20th and 80th percentile of one call, each from a cold L2 when `cold`; nothing in a rehearsal."""
        function()
        if self.rehearsal:
            return {}
        flushed = torch.empty(_COLD_BYTES if cold else 1, dtype=torch.int8, device=self.device)
        for _ in range(3):
            function()
        times: list[float] = []
        stop = time.monotonic() + seconds
        while len(times) < 10 or (time.monotonic() < stop and len(times) < 1000):
            flushed.zero_()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            function()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        low, *_, high = statistics.quantiles(times, n=5)
        median = statistics.median(times)
        return {"ms": _short(median), "p20": _short(low), "p80": _short(high), "n": len(times)}

    def in_turns(
        self, calls: dict[str, Callable[[], object]], *, seconds: float, most: int
    ) -> dict[str, list[float]]:
        """Milliseconds of the calls, one of each after another, at least 10 times each, for `seconds` a call or `most`
        rounds: a clock that falls falls for all."""
        times: dict[str, list[float]] = {name: [] for name in calls}
        stop = time.monotonic() + seconds * len(calls)
        rounds = 0
        while rounds < 10 or (time.monotonic() < stop and rounds < most):
            for name, call in calls.items():
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                call()
                end.record()
                end.synchronize()
                times[name].append(start.elapsed_time(end))
            rounds += 1
        return times


def measure_ceilings(context: Context) -> dict[str, float]:
    """What torch's own matrix product and copy reach here: operations and bytes a second; NaN in a rehearsal."""
    if context.rehearsal:
        return {"flops": float("nan"), "bytes": float("nan")}
    a, b = (torch.randn(8192, 8192, device=context.device, dtype=torch.bfloat16) for _ in range(2))
    product = context.milliseconds(lambda: a @ b, seconds=1.0)["ms"] / 1e3
    source = torch.empty(1 << 30, dtype=torch.int8, device=context.device)
    target = torch.empty_like(source)
    copy = context.milliseconds(lambda: target.copy_(source), seconds=0.5)["ms"] / 1e3
    return {"flops": 2 * 8192**3 / product, "bytes": 2 * (1 << 30) / copy}


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def run_tool(command: list[str], seconds: float, **options: Any) -> Row:
    """A program's outcome: ok, failed with its last words, or "not available here" when the machine refuses it."""
    if which(command[0]) is None:
        return {"outcome": "not available here", "said": f"{command[0]} is not installed"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, check=False, **options
        )
    except subprocess.TimeoutExpired:
        return {"outcome": "not reached", "said": f"{command[0]} took more than {seconds:.0f} s"}
    said = done.stdout + done.stderr
    refused = ("ERR_NVGPUCTRPERM", "not supported on this", "Unable to find injection library")
    refused += ("Device not supported", "insufficient permissions", "Failed to initialize")
    if any(words in said for words in refused):
        return {"outcome": "not available here", "said": said[-500:]}
    if done.returncode:
        return {"outcome": "failed", "ok": False, "said": said[-2000:]}
    return {"outcome": "ok", "said": said[-500:]}
