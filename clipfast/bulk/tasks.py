"""What is missing of an output."""

from __future__ import annotations

from dataclasses import dataclass

from clipfast.bulk.job import Job
from clipfast.bulk.layout import Layout
from clipfast.bulk.marker import read_marker
from clipfast.bulk.pipeline import Slot, slots_of
from clipfast.bulk.plan import Plan
from clipfast.bulk.settings import Settings


@dataclass(frozen=True)
class Task:
    """One shard to make. slots: the batches to compute, where an earlier run's rows serve for the others."""

    shard: int
    slots: list[Slot] | None = None

    def batches(self, plan: Plan, batch_size: int) -> list[Slot]:
        """The slots to compute."""
        return slots_of(plan, self.shard, batch_size) if self.slots is None else self.slots


@dataclass(frozen=True)
class Todo:
    """What a process has to make. done_items, done_errors: in the shards, and parts of shards, that it keeps."""

    tasks: list[Task]
    done_items: int
    done_errors: int


def find_tasks(layout: Layout, job: Job, plan: Plan, settings: Settings) -> Todo:
    """Compare this process's shards of the plan with the markers."""
    tasks: list[Task] = []
    done = errors = 0
    for number in plan.of_worker(settings.shard_index, settings.num_shards):
        marker = read_marker(layout, number)
        if marker is None or marker.job != job.digest or marker.damage(layout.folder):
            tasks.append(Task(number))
        elif settings.retry_failed and marker.errors:
            slots = _failed_slots(layout, job, plan, number)
            tasks.append(Task(number, slots))
            done += len(plan.span(number)) - sum(at.stop - at.start for at in slots)
        else:
            done += len(plan.span(number))
            errors += sum(marker.errors.values())
    return Todo(tasks, done, errors)


def _failed_slots(layout: Layout, job: Job, plan: Plan, number: int) -> list[Slot]:
    """The batches that hold failed items, whole: then the bits are those of a run in which nothing failed."""
    failed = set(layout.read_table(layout.errors(number))["item"])
    return [
        slot
        for slot in slots_of(plan, number, job.batch_size)
        if not failed.isdisjoint(range(slot.start, slot.stop))
    ]
