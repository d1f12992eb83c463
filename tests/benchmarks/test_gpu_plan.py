"""Which tasks a run of `make gpu` has, in which order, and what time each gets."""

from __future__ import annotations

import argparse

import pytest

from benchmarks.gpu.plan import MOST, SECTIONS, Choice, Task, cells, seconds_of, tasks
from benchmarks.gpu.programs import programs


def test_everything_that_is_worth_it_in_order() -> None:
    planned = tasks(list(SECTIONS))
    assert list(dict.fromkeys(task.section for task in planned)) == list(SECTIONS)
    engine = [task.choice for task in planned if task.section == "engine" and task.choice]
    assert [(at.model, at.batches) for at in engine[:2]] == [
        ("ViT-B-32", (1, 56, 256)),
        ("ViT-L-14", (1, 49, 256)),
    ]
    # Precisions that have no target on a device with fp8 come last, and their peers are not measured again.
    assert [at.precisions for at in engine[:-2]] == [("bf16", "fp8")] * (len(engine) - 2)
    assert engine[-1].precisions == ("fp16", "int8")
    assert "torch eager" in engine[-1].without
    share = sum(task.weight for task in planned if task.section == "engine")
    assert share > sum(task.weight for task in planned) / 2


def test_without_fp8_int8_is_in_the_first_pass() -> None:
    first, *_, last = tasks(["engine"], has_fp8=False)
    assert first.choice.precisions == ("bf16", "int8")
    assert last.choice.precisions == ("fp16",)


def test_chosen_cells_are_the_engine_s_and_no_compiler_is_nobody_s() -> None:
    planned = tasks(["texts", "engine"], [("ViT-H-14", (2,))], compiled=False)
    assert [task.name for task in planned] == [
        "texts ViT-B-32",
        "texts ViT-L-14",
        "engine ViT-H-14 2",
    ]
    assert not any(task.choice.compiled for task in planned)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("ViT-L-14:49,256", ("ViT-L-14", (49, 256))),
        ("ViT-H-14", ("ViT-H-14", (1, 39, 256))),
        ("ViT-g-14:8", ("ViT-g-14", (8,))),
    ],
)
def test_cells_as_they_are_asked_for(said: str, meant: object) -> None:
    assert cells(said) == meant


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("ViT-Z:1", "is no architecture"),
        ("ViT-L-14:x", "expected model:batch"),
        ("ViT-g-14", "has no usual batches"),
    ],
)
def test_cells_that_are_refused(said: str, reason: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=reason):
        cells(said)


@pytest.mark.parametrize(
    "choice",
    [
        Choice("ViT-L-14", (1, 49), ("bf16",), ("clipfast triton fp8", "torch eager"), False),
        Choice("ViT-B-32", (), (), (), True),
    ],
    ids=["all", "none"],
)
def test_a_section_reads_the_choice_that_it_was_given(choice: Choice) -> None:
    assert Choice.of(choice.options()) == choice


def test_a_task_has_its_share_of_what_is_left() -> None:
    first, second = Task("engine", 3.0), Task("kernels", 1.0)
    assert seconds_of(first, [second], 400.0) == 300.0
    assert seconds_of(second, [], 390.0) == 390.0
    assert seconds_of(second, [first], 100.0) == 45.0
    assert seconds_of(Task("parity", 1.0), [first] * 9, 600.0) == 180.0
    assert seconds_of(second, [first], 10.0) == 10.0
    assert seconds_of(Task("parity", 3.0), [], 900.0) == MOST["parity"]


def test_programs_of_a_cell() -> None:
    def names(**cell: int) -> list[str]:
        found = programs(has_fp8=True, **cell)
        return [program.name.removeprefix("torch.compile").strip() for program in found]

    assert names(batch=1, largest=256) == ["", "fp8", "reduce-overhead"]
    assert names(batch=49, largest=256) == ["", "fp8"]
    assert names(batch=256, largest=256) == ["", "fp8", "max-autotune"]
    assert names() == ["", "fp8"]
    assert [program.name for program in programs(has_fp8=False)] == ["torch.compile"]
