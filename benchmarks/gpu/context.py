"""What a section of `make gpu` is given: the device, the time that is left, and a clock for kernels."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Row = dict[str, Any]
# Larger than any L2: zeroing it between repetitions makes every one of them start cold.
_COLD_BYTES = 256 << 20
_SIDE = 8192  # of the products that are the ceiling


@dataclass(frozen=True)
class Context:
    """device: a GPU, or the CPU in a rehearsal. deadline: of time.monotonic(). options: of the section's own."""

    device: torch.device
    deadline: float
    options: tuple[str, ...] = ()

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
        return spread(times)


def spread(milliseconds: list[float]) -> Row:
    """Median, 20th and 80th percentile."""
    low, *_, high = statistics.quantiles(milliseconds, n=5)
    median = statistics.median(milliseconds)
    n = len(milliseconds)
    return {"ms": _short(median), "p20": _short(low), "p80": _short(high), "n": n}


def measure_ceilings(context: Context) -> dict[str, float]:
    """What torch's own matrix product and copy reach here: operations and bytes a second; NaN in a rehearsal."""
    if context.rehearsal:
        return {"flops": float("nan"), "bytes": float("nan")}
    shape = (_SIDE, _SIDE)
    a, b = (torch.randn(shape, device=context.device, dtype=torch.bfloat16) for _ in range(2))
    product = context.milliseconds(lambda: a @ b, seconds=1.0)["ms"] / 1e3
    source = torch.empty(1 << 30, dtype=torch.int8, device=context.device)
    target = torch.empty_like(source)
    copy = context.milliseconds(lambda: target.copy_(source), seconds=0.5)["ms"] / 1e3
    return {"flops": 2 * _SIDE**3 / product, "bytes": 2 * (1 << 30) / copy}


def measure_fp8_ceiling(context: Context) -> float:
    """What torch's own product of 8-bit floats with a scale for each row reaches here; NaN where there is none."""
    if context.rehearsal or torch.cuda.get_device_capability() < (8, 9):
        return float("nan")
    shape = (_SIDE, _SIDE)
    a, b = (torch.randn(shape, device=context.device).to(torch.float8_e4m3fn) for _ in range(2))
    rows, columns = (torch.ones(shape, device=context.device) for shape in ((_SIDE, 1), (1, _SIDE)))

    def product() -> torch.Tensor:
        return torch._scaled_mm(  # noqa: SLF001
            a, b.t(), scale_a=rows, scale_b=columns, out_dtype=torch.bfloat16, use_fast_accum=True
        )

    try:
        return 2 * _SIDE**3 / (context.milliseconds(product, seconds=1.0)["ms"] / 1e3)
    except RuntimeError:  # of a torch that has no such product for this device
        return float("nan")


def ceiling_rows(ceilings: dict[str, float]) -> list[Row]:
    """The device's own rates, as rows."""
    return [
        {"name": f"torch.matmul {_SIDE}^3 bf16", "TFLOPS": round(ceilings["flops"] / 1e12)},
        {"name": "copy of 1 GiB", "GBps": round(ceilings["bytes"] / 1e9)},
    ]


def _short(value: float) -> float:
    return float(f"{value:.4g}")
