"""Streams of the CPU: several batches at once, each on its own share of torch's threads.

Threads that share one batch wait for each other after every operation; streams wait for nothing but their inputs. One
batch alone, and what is left over, is computed by the caller with all threads.
"""

from __future__ import annotations

import importlib.util
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

# Items of less than this part of the largest would leave a stream idle, waiting for the other.
_ALIKE = 0.75


class Streams:
    """Threads for so many batches at once, made when they are first needed. Several callers may share them."""

    def __init__(self, asked: int | None, usual: int = 1) -> None:
        """asked: streams; None takes the usual number where torch's threads divide by it, else one."""
        self._asked, self._usual = asked, usual
        # Without the extension a thread's own share cannot be set.
        self._shares = importlib.util.find_spec("clipfast._native") is not None
        self._pools: dict[int, ThreadPoolExecutor] = {}
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """Batches at once, with the threads that torch has now."""
        threads = torch.get_num_threads()
        if not self._shares:
            return 1
        if self._asked is not None:
            return min(self._asked, threads)
        return self._usual if threads % self._usual == 0 else 1

    @contextmanager
    def open(self, function: Callable[[Item], Result]) -> Iterator[Underway[Item, Result]]:
        """One call's batches; leaving ends those that are under way."""
        count = self.count
        share = torch.get_num_threads() // count

        def submit(item: Item) -> Future[Result]:
            return self._pool(count).submit(_with_threads, share, function, item)

        underway = Underway(function, count, submit)
        try:
            yield underway
        finally:
            underway.abandon()

    def _pool(self, count: int) -> ThreadPoolExecutor:
        with self._lock:
            if count not in self._pools:
                self._pools[count] = ThreadPoolExecutor(count, "clipfast-stream", _start_thread)
            return self._pools[count]


def _start_thread() -> None:
    torch.get_num_threads()  # torch sets a thread's count when that thread first asks


def _with_threads(share: int, function: Callable[[Item], Result], item: Item) -> Result:
    from clipfast import _native

    _native.set_thread_count(share)
    return function(item)


class Underway(Generic[Item, Result]):
    """Items on their way through the streams, a group at a time: one for each stream, of about one size."""

    def __init__(
        self,
        function: Callable[[Item], Result],
        count: int,
        submit: Callable[[Item], Future[Result]],
    ) -> None:
        self.count = count
        self._function = function
        self._submit = submit
        self._group: list[tuple[Item, int]] = []
        self._running: deque[tuple[Item, Future[Result]]] = deque()

    def all(
        self, items: Iterable[Item], size: Callable[[Item], int]
    ) -> Iterator[tuple[Item, Result]]:
        """Every item with its result, in no certain order. size: the work in an item, in any unit."""
        for item in items:
            yield from self.put(item, size(item))
        yield from self.finish()

    def put(self, item: Item, size: int) -> Iterator[tuple[Item, Result]]:
        """Takes an item, and gives what is finished. size: as above."""
        self._group.append((item, size))
        if len(self._group) < self.count:
            return
        sizes = [size for _, size in self._group]
        if self.count == 1 or min(sizes) < _ALIKE * max(sizes):
            yield from self.finish()
            return
        self._running += [(item, self._submit(item)) for item, _ in self._group]
        self._group.clear()
        while len(self._running) > 2 * self.count:
            yield self._first()

    def finish(self) -> Iterator[tuple[Item, Result]]:
        """What is still under way, and what never became a group."""
        while self._running:
            yield self._first()
        while self._group:
            item, _ = self._group.pop(0)
            yield item, self._function(item)

    def abandon(self) -> None:
        """Ends what nobody takes any more."""
        futures = [future for _, future in self._running]
        self._running.clear()
        for future in futures:
            if not future.cancel():
                future.exception()

    def _first(self) -> tuple[Item, Result]:
        item, future = self._running[0]
        result = future.result()
        self._running.popleft()
        return item, result
