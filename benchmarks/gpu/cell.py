"""One batch, and everyone who computes it: cosines, memory and times in turns, whoever fails meanwhile.

The rows of a cell come twice when programs are compiled for it: once before, so that nothing is lost with a compilation
that takes too long or fails, and once with everyone in turns. The last row of a name counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.gpu.context import Context, Row, spread
from benchmarks.gpu.libraries import why

Call = Callable[[], torch.Tensor]
ROUNDS, SECONDS = 300, 1.0
WARM_ROUNDS = 3  # a compiled program records its graph in the second call
LEAST_COSINE = {"bf16": 0.999, "fp16": 0.999, "fp8": 0.99, "int8": 0.99}
CHECKED = 32  # images and texts that are compared with float64


class DeviceLostError(RuntimeError):
    """After which nothing that this process asks of the device can be believed. row: whose fault it is."""

    def __init__(self, row: Row) -> None:
        super().__init__(row["said"])
        self.row = row


def device_is_lost(error: Exception) -> bool:
    """Whether the error stays: the device's own, or one after which it does not answer."""
    words = ("CUDA error", "Triton Error [CUDA]")
    if isinstance(error, torch.AcceleratorError) or any(word in str(error) for word in words):
        return True
    try:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def not_measured(name: str, reason: str) -> Row:
    """A cell's or a contestant's row."""
    return {"name": name, "outcome": f"not measured: {reason}"}


class Cell:
    """One batch.

    Args:
        name: of the cell; a row is called "name, contestant".
        exact: (n, E) unit rows in float64 of the first n items.
        figures: (contestant, row with ms) -> what is said of it besides.
    """

    def __init__(
        self,
        context: Context,
        name: str,
        exact: torch.Tensor,
        figures: Callable[[str, Row], Row],
    ) -> None:
        self.context, self.name = context, name
        self._exact, self._figures = exact, figures
        self._rows: dict[str, Row] = {}
        self._running: dict[str, Call] = {}

    def contest(self, calls: dict[str, Call | str]) -> Iterator[Row]:
        """A row for each contestant, and again for those that took part before.

        Raises: DeviceLostError.
        """
        for name, call in calls.items():
            self._check(name, call)
        yield from self._timed()

    def contest_compiled(
        self, programs: Iterable[tuple[str, float, Callable[[], Call]]]
    ) -> Iterator[Row]:
        """The same for programs, compiled one by one: name, how long that takes at most, and what makes its call.

        Raises: DeviceLostError.
        """
        for name, seconds, make in programs:
            left = self.context.seconds_left()
            if left < seconds:
                said = f"{left:.0f} s were left, compiling takes up to {seconds:.0f}"
                self._check(name, said)
                continue
            started = time.monotonic()
            self._check(name, self._made(name, make))
            self._rows[name]["compile s"] = round(time.monotonic() - started, 1)
        yield from self._timed()

    def _made(self, name: str, make: Callable[[], Call]) -> Call | str:
        try:
            return make()
        except Exception as error:  # noqa: BLE001  the compiler's: the others are measured without it
            self._failed(name, error)
            return why(error)

    def _check(self, name: str, call: Call | str) -> None:
        """One call: its cosine and memory, or why there are none."""
        if isinstance(call, str):
            self._rows[name] = {"outcome": f"not measured: {call}"}
            return
        held = 0
        if not self.context.rehearsal:
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
        try:
            with torch.inference_mode():
                found = call()[: len(self._exact)].cpu().double()
        except Exception as error:  # noqa: BLE001  anyone's: the others are measured without it
            self._failed(name, error)
            return
        cosine = F.cosine_similarity(found, self._exact.double(), dim=-1).min().item()
        least = LEAST_COSINE[name.split()[-1]] if name.startswith("clipfast") else 0.0
        row: Row = {"ok": cosine >= least, "cosine": f"1 - {1 - cosine:.1e}"}
        if not self.context.rehearsal:
            # Of the call, beside the weights of all contestants: its activations, and a first call's graph.
            row["MiB"] = round((torch.cuda.max_memory_allocated() - held) / 2**20)
        self._rows[name], self._running[name] = row, call

    def _failed(self, name: str, error: Exception) -> None:
        """Ours makes the run fail, a peer is not measured; a device that is lost ends it."""
        self._running.pop(name, None)
        row: Row = {"outcome": f"not measured: {why(error)}"}
        if name.startswith("clipfast"):
            row = {"ok": False, "said": f"{type(error).__name__}: {error}"[-2000:]}
        self._rows[name] = row
        if device_is_lost(error):
            said = {"ok": False, "said": f"the device was lost: {why(error)}", "lost": name}
            raise DeviceLostError({"name": f"{self.name}, {name}", **said})
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _timed(self) -> Iterator[Row]:
        for name, times in self._in_turns().items():
            if name in self._running:
                row = self._rows[name] | spread(times)
                self._rows[name] = row | self._figures(name, row)
        for name, row in self._rows.items():
            yield {"name": f"{self.name}, {name}", **row}

    def _in_turns(self) -> dict[str, list[float]]:
        """Milliseconds of those that run, one of each after another: a clock that falls falls for all."""
        times: dict[str, list[float]] = {name: [] for name in self._running}
        if self.context.rehearsal:
            return {}
        stop = time.monotonic() + SECONDS * len(times)
        rounds = 0
        with torch.inference_mode():
            while rounds < 10 + WARM_ROUNDS or (time.monotonic() < stop and rounds < ROUNDS):
                for name, call in list(self._running.items()):
                    try:
                        took = _milliseconds(call)
                    except Exception as error:  # noqa: BLE001  anyone's: the others are measured without it
                        self._failed(name, error)
                    else:
                        times[name] += [took] if rounds >= WARM_ROUNDS else []
                rounds += 1
        return times


def _milliseconds(call: Callable[[], Any]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)
