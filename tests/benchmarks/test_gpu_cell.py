"""A cell of `make gpu`: who fails, or has no time left, costs the others nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

from benchmarks.gpu import cell as cells
from benchmarks.gpu.cell import Cell, DeviceLostError
from benchmarks.gpu.context import Context, Row

ROWS = torch.nn.functional.normalize(torch.arange(12.0).reshape(4, 3) + 1)
Call = Callable[[], torch.Tensor]


class OnTheClock(Context):
    """A CPU whose calls are timed as a GPU's are."""

    rehearsal = False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> OnTheClock:
    def milliseconds(call: Call) -> float:
        started = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - started)

    monkeypatch.setattr(cells, "_milliseconds", milliseconds)
    monkeypatch.setattr(cells, "SECONDS", 0.01)
    for name in ("reset_peak_memory_stats", "memory_allocated", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda: 0)
    return OnTheClock(torch.device("cpu"), time.monotonic() + 60)


def cell(context: Context) -> Cell:
    return Cell(context, "x batch 4", ROWS[:2], lambda _, row: {"items/s": 4e3 / row["ms"]})


def right() -> torch.Tensor:
    return ROWS


def failing(after: int = 0, said: str = "no such kernel") -> Call:
    """Raises in the call after so many."""
    left = [after]

    def call() -> torch.Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError(said)
        return ROWS

    return call


def by_name(rows: list[Row]) -> dict[str, Row]:
    return {row["name"].removeprefix("x batch 4, "): row for row in rows}


@pytest.mark.parametrize(
    "after", [0, 1, 5], ids=["at once", "in the first turn", "in a later turn"]
)
@pytest.mark.parametrize("who", ["clipfast fp8", "timm"])
def test_who_fails_costs_the_others_nothing(clock: Context, who: str, after: int) -> None:
    calls = {"clipfast bf16": right, who: failing(after), "torch eager": right}
    calls["open_clip"] = "it is not installed"
    rows = by_name(list(cell(clock).contest(calls)))
    assert all(
        {"ms", "items/s", "cosine"} <= set(rows[name]) for name in ("clipfast bf16", "torch eager")
    )
    assert rows["clipfast bf16"]["n"] >= 10
    assert rows["open_clip"]["outcome"] == "not measured: it is not installed"
    if who == "timm":
        assert rows[who]["outcome"] == "not measured: RuntimeError: no such kernel"
    else:
        assert not rows[who]["ok"]
        assert rows[who]["said"] == "RuntimeError: no such kernel"


def test_wrong_rows_of_ours_fail(clock: Context) -> None:
    calls = {
        "clipfast bf16": lambda: ROWS.flip(1),
        "clipfast fp8": right,
        "timm": lambda: ROWS.flip(1),
    }
    rows = by_name(list(cell(clock).contest(calls)))
    assert [rows[name]["ok"] for name in calls] == [False, True, True]


@pytest.mark.parametrize("said", ["CUDA error: unspecified", "Triton Error [CUDA]: illegal"])
@pytest.mark.parametrize("after", [0, 3])
def test_a_lost_device_ends_the_cell_and_says_who_lost_it(
    clock: Context, said: str, after: int
) -> None:
    calls = {"clipfast bf16": right, "clipfast fp8": failing(after, said), "timm": right}
    with pytest.raises(DeviceLostError) as lost:
        list(cell(clock).contest(calls))
    row = lost.value.row
    assert (row["name"], row["lost"], row["ok"]) == (
        "x batch 4, clipfast fp8",
        "clipfast fp8",
        False,
    )
    assert said in row["said"]


def test_programs_without_time_are_not_measured_and_the_others_come_again(clock: Context) -> None:
    asked: list[str] = []

    def program(name: str, call: Call) -> Callable[[], Call]:
        return lambda: (asked.append(name), call)[1]

    def refused() -> Call:
        raise RuntimeError("recompile_limit was hit")

    one = cell(clock)
    list(one.contest({"clipfast bf16": right}))
    programs = [
        ("torch.compile", 1.0, program("torch.compile", right)),
        ("torch.compile fp8", 1.0, refused),
        ("torch.compile max-autotune", 500.0, program("max-autotune", right)),
    ]
    rows = by_name(list(one.contest_compiled(programs)))
    assert asked == ["torch.compile"]
    assert {"clipfast bf16", "torch.compile"} == {name for name, row in rows.items() if "ms" in row}
    assert rows["torch.compile"]["compile s"] >= 0
    assert (
        rows["torch.compile fp8"]["outcome"]
        == "not measured: RuntimeError: recompile_limit was hit"
    )
    said = rows["torch.compile max-autotune"]["outcome"]
    assert said.startswith("not measured: ")
    assert said.endswith(" s were left, compiling takes up to 500")


def test_a_rehearsal_has_cosines_and_no_figures() -> None:
    context = Context(torch.device("cpu"), time.monotonic() + 60)
    rows = by_name(list(cell(context).contest({"clipfast bf16": right})))
    assert set(rows["clipfast bf16"]) == {"name", "ok", "cosine"}
