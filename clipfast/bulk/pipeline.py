"""Batches of a job, decoded ahead of the consumer: a reader thread, a pool of decoders, a fixed number of buffers.

The buffers bound everything: the reader starts a batch when a buffer is free, the consumer frees it after use. So at
most BUFFERS batches of items and pixels exist, whatever the size of the job.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch

from clipfast.bulk.decode import Decoded, Recipe, decode_items
from clipfast.bulk.item import Item
from clipfast.bulk.plan import Plan
from clipfast.errors import ClipfastError
from clipfast.inputs.pipeline import available_processors

BUFFERS = 4  # one is encoded, one is ready, two are decoded
_MAX_ITEMS_PER_TASK = 8


@dataclass(frozen=True)
class Slot:
    """A batch of the plan: the items [start, stop) of the job, which belong to one shard."""

    shard: int
    start: int
    stop: int


@dataclass
class Batch:
    """The items of a slot. buffer: (batch size, 3, R, R) uint8, of which they fill the first rows, or None."""

    slot: Slot
    items: list[Item]
    buffer: torch.Tensor | None
    tasks: list[Future[Decoded]]
    list_seconds: float
    """What the reader took to list the items, and to read those whose bytes come with the list."""

    @property
    def pixels(self) -> torch.Tensor | None:
        """(b, 3, R, R) uint8."""
        return None if self.buffer is None else self.buffer[: len(self.items)]

    def wait(self) -> Decoded:
        """Everything but the pixels, once all is decoded."""
        whole = Decoded()
        for task in self.tasks:
            part = task.result()
            first = len(whole.captions)
            whole.captions += part.captions
            whole.failures.update({first + at: error for at, error in part.failures.items()})
            whole.decode_seconds += part.decode_seconds
            whole.read_seconds += part.read_seconds
        return whole


def slots_of(plan: Plan, shard: int, batch_size: int) -> list[Slot]:
    """The batches of a shard: cut at fixed positions, whoever computes them and whenever."""
    span = plan.span(shard)
    return [
        Slot(shard, start, min(start + batch_size, span.stop))
        for start in range(span.start, span.stop, batch_size)
    ]


class Pipeline:
    """Iterate over it for the batches, in order; `release` each when it is used up."""

    def __init__(
        self,
        plan: Plan,
        recipe: Recipe,
        batch_size: int,
        workers: int,
        *,
        take_turns: bool = False,
    ) -> None:
        """take_turns: decoders pause while the consumer is `computing`, where both need the same processors: a thread
        that decodes keeps all others of a parallel loop waiting at its end."""
        self._plan = plan
        self._recipe = recipe
        self._batch_size = batch_size
        self.workers = workers
        self._stop = threading.Event()
        self._turn = threading.Event() if take_turns else None
        if self._turn is not None:
            self._turn.set()
        self._free: queue.SimpleQueue[torch.Tensor | None] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[Batch | BaseException | None] = queue.SimpleQueue()
        for _ in range(BUFFERS):
            self._free.put(self._buffer())

    def _buffer(self) -> torch.Tensor | None:
        if "images" not in self._recipe.modalities:
            return None
        size = self._recipe.size
        return torch.zeros(self._batch_size, 3, size, size, dtype=torch.uint8)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Decoders pause while the block runs, if they take turns with it."""
        if self._turn is None:
            yield
            return
        self._turn.clear()
        try:
            yield
        finally:
            self._turn.set()

    def release(self, batch: Batch) -> None:
        self._free.put(batch.buffer)

    def __iter__(self) -> Iterator[Batch]:
        while (batch := self._ready.get()) is not None:
            if isinstance(batch, BaseException):
                raise batch
            yield batch

    @contextmanager
    def running(self, slots: Iterable[Slot]) -> Iterator[Pipeline]:
        """The threads exist while the block runs, and none is left behind, however it ends."""
        pool = ThreadPoolExecutor(self.workers, "clipfast-decode")
        reader = threading.Thread(target=self._read, args=(slots, pool), name="clipfast-read")
        reader.start()
        try:
            yield self
        finally:
            self._stop.set()
            if self._turn is not None:
                self._turn.set()
            self._free.put(None)  # wakes a reader that waits for a buffer
            reader.join()
            pool.shutdown(wait=True, cancel_futures=True)

    def _read(self, slots: Iterable[Slot], pool: ThreadPoolExecutor) -> None:
        try:
            for run in _runs(slots):
                items = self._plan.items(run[0].start, run[-1].stop)
                for slot in run:
                    batch = self._start(slot, items, pool)
                    if batch is None:
                        return
                    self._ready.put(batch)
            self._ready.put(None)
        except BaseException as error:  # noqa: BLE001  (raised again where the batches are taken)
            self._ready.put(error)

    def _start(self, slot: Slot, items: Iterator[Item], pool: ThreadPoolExecutor) -> Batch | None:
        """The batch, being decoded, once a buffer is free; None when the consumer has left."""
        buffer = self._free.get()
        if self._stop.is_set():
            return None
        began = time.perf_counter()
        listed = list(islice(items, slot.stop - slot.start))
        if len(listed) < slot.stop - slot.start:
            raise ClipfastError(
                f"the inputs end at item {slot.start + len(listed)} where {slot.stop} were listed; they have changed"
            )
        batch = Batch(slot, listed, buffer, [], time.perf_counter() - began)
        pixels = batch.pixels
        step = max(1, min(_MAX_ITEMS_PER_TASK, len(listed) // (2 * self.workers)))
        for at in range(0, len(listed), step):
            part = None if pixels is None else pixels[at : at + step].numpy()
            batch.tasks.append(
                pool.submit(decode_items, listed[at : at + step], part, self._recipe, self._turn)
            )
        return batch


def _runs(slots: Iterable[Slot]) -> Iterator[Sequence[Slot]]:
    """Neighbours, which are read in one go."""
    run: list[Slot] = []
    for slot in slots:
        if run and (slot.start != run[-1].stop or slot.shard != run[-1].shard):
            yield run
            run = []
        run.append(slot)
    if run:
        yield run


def default_workers() -> int:
    """Decoding threads: one a processor."""
    return available_processors()
