"""Work on consecutive items by threads, one batch ahead of the consumer, results in order, memory bounded.

While the consumer computes on one batch, the pool works on the next. Threads are made for one call and joined at its
end (also when the consumer stops early), so nothing is left behind to break a fork.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import torch

from clipfast.inputs.unresized import Unresized
from clipfast.threads import on_callers_streams

Outcome = TypeVar("Outcome")
# Fills rows of a batch from the items that belong there, or adds to its unresized images, and reports on each.
Work = Callable[[Sequence[Any], torch.Tensor, Unresized | None], list[Outcome]]

_BATCHES_READ_AHEAD = 2  # the one that is waited for, and the next
_MAX_ITEMS_PER_TASK = 8


@dataclass(frozen=True)
class Window(Generic[Outcome]):
    """`outcomes` of the items from position `start` on, and the (b, 3, R, R) uint8 rows that the work filled.

    unresized: images of other sizes, where there is memory for them.
    """

    start: int
    rows: torch.Tensor
    outcomes: list[Outcome]
    unresized: Unresized | None


def windows(
    source: Iterable[object],
    work: Work[Outcome],
    *,
    batch_size: int,
    size: int,
    workers: int,
    allocate: Callable[[int], torch.Tensor] | None = None,
    allocate_unresized: Callable[[int], torch.Tensor | None] | None = None,
) -> Iterator[Window[Outcome]]:
    """`work` on every `batch_size` items of `source`, in order.

    Args:
        size: R of the rows.
        workers: threads; 0 works in the caller's thread, without reading ahead.
        allocate: the memory of so many rows; ordinary memory where it is None. Three windows are alive at once.
        allocate_unresized: (bytes,) uint8 for the images of so many rows that the work does not resize, or None.
    """
    items = _counted(source)
    new_rows = allocate or partial(_ordinary_rows, size)

    def new_unresized(count: int) -> Unresized | None:
        memory = None if allocate_unresized is None else allocate_unresized(count)
        return None if memory is None else Unresized(memory)

    start = 0
    if workers < 1:
        while batch := list(islice(items, batch_size)):
            rows, unresized = new_rows(len(batch)), new_unresized(len(batch))
            yield Window(start, rows, work(batch, rows, unresized), unresized)
            start += len(batch)
        return
    pool = ThreadPoolExecutor(workers, "clipfast-inputs", on_callers_streams())
    pending: deque[tuple[torch.Tensor, Unresized | None, list[Future[list[Outcome]]]]] = deque()
    try:
        while True:
            while len(pending) < _BATCHES_READ_AHEAD and (batch := list(islice(items, batch_size))):
                rows, unresized = new_rows(len(batch)), new_unresized(len(batch))
                step = max(1, min(_MAX_ITEMS_PER_TASK, len(batch) // (2 * workers)))
                futures = [
                    pool.submit(work, batch[at : at + step], rows[at : at + step], unresized)
                    for at in range(0, len(batch), step)
                ]
                pending.append((rows, unresized, futures))
            if not pending:
                return
            rows, unresized, futures = pending.popleft()
            outcomes = list(chain.from_iterable(task.result() for task in futures))
            yield Window(start, rows, outcomes, unresized)
            start += len(rows)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _ordinary_rows(size: int, count: int) -> torch.Tensor:
    return torch.empty(count, 3, size, size, dtype=torch.uint8)


class _ItemCount:
    """Notes on an exception that leaves the block how many items the caller's iterable gave before."""

    items = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and not isinstance(error, GeneratorExit):
            error.add_note(f"raised by the iterable of images after {self.items} images")


def _counted(source: Iterable[object]) -> Iterator[object]:
    with _ItemCount() as count:
        for item in source:
            yield item
            count.items += 1


def available_processors() -> int:
    """Processors that this process may use: its affinity, within its control group's quota."""
    processors, quota = len(os.sched_getaffinity(0)), cgroup_quota()
    return processors if quota is None else min(processors, max(1, math.ceil(quota)))


def cgroup_quota() -> float | None:
    """Processors that the control group allows, None when it does not limit them."""
    limit = Path("/sys/fs/cgroup/cpu.max")
    if not limit.is_file():
        return None
    quota, period = limit.read_text(encoding="utf-8").split()
    return None if quota == "max" else int(quota) / int(period)
