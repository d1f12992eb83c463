"""How far a job is, how fast, and what holds it up: lines on stderr while it runs, a summary when it ends."""

from __future__ import annotations

import json
import resource
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipfast.bulk.tasks import Todo

_EVERY = 10.0  # seconds between lines that are kept
_EVERY_ON_TERMINAL = 0.5
_WINDOW = 10.0  # seconds that "now" looks back
STAGES = ("read", "decode", "encode", "write")


@dataclass
class Summary:
    """A run in numbers. items, rows and errors are of this run; skipped_: of the shards that it found done.

    stages: seconds that each stage was busy, decode and read averaged over the workers. seconds: from the first batch
    on, so without loading; load_seconds: before that.
    """

    output: str = ""
    items: int = 0
    rows: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    skipped_items: int = 0
    skipped_errors: int = 0
    planned_items: int = 0
    shards: int = 0
    seconds: float = 0.0
    load_seconds: float = 0.0
    items_per_second: float = 0.0
    stages: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    bottleneck: str = "encode"
    peak_bytes: int = 0

    @property
    def failed(self) -> int:
        """Items without an embedding, of this run and of the shards it found done."""
        return self.skipped_errors + sum(self.errors.values())


class Progress:
    """Counts what happens, and says it.

    Args:
        stream: for lines; None is silent. On a terminal one line is rewritten.
        log_json: a JSON object a line instead of words.
    """

    def __init__(self, stream: IO[str] | None = None, *, log_json: bool = False) -> None:
        self.summary = Summary()
        self._stream = stream
        self._json = log_json
        self._rewrites = stream is not None and stream.isatty() and not log_json
        self._created = time.monotonic()
        self._started: float | None = None
        self._said = 0.0
        self._recent: deque[tuple[float, int]] = deque()
        self._failed = 0

    def say(self, event: str, sentence: str, **fields: Any) -> None:
        """One line that stays."""
        if self._stream is None:
            return
        line = (
            json.dumps({"event": event, **fields}) if self._json else f"clipfast embed: {sentence}"
        )
        print(f"\r\033[K{line}" if self._rewrites else line, file=self._stream, flush=True)

    def plan(self, output: str, items: int, todo: Todo) -> None:
        """What this process has to do."""
        self.summary.output = output
        self.summary.planned_items = items
        self.summary.skipped_items = todo.done_items
        self.summary.skipped_errors = todo.done_errors
        if todo.done_items:
            done = todo.done_items
            self.say("resumed", f"{done:,} of {items:,} items were done before", items=done)

    def start(self) -> None:
        """The first batch is being read."""
        self._started = self._said = time.monotonic()
        self.summary.load_seconds = self._started - self._created
        self._recent.append((self._started, 0))

    def batch(self, items: int, failed: int, **stages: float) -> None:
        """A batch is encoded. stages: seconds that it took of each."""
        self.summary.items += items
        self._failed += failed
        for stage, seconds in stages.items():
            self.summary.stages[stage] += seconds
        now = time.monotonic()
        self._recent.append((now, self.summary.items))
        while len(self._recent) > 2 and self._recent[1][0] < now - _WINDOW:
            self._recent.popleft()
        due = now - self._said >= (_EVERY_ON_TERMINAL if self._rewrites else _EVERY)
        if due and self._stream is not None:
            self._said = now
            self._say_progress(self._stream)

    def shard(self, rows: int, errors: dict[str, int], seconds: float) -> None:
        """A shard is on disk."""
        self.summary.shards += 1
        self.summary.rows += rows
        self.summary.stages["write"] += seconds
        for code, count in errors.items():
            self.summary.errors[code] = self.summary.errors.get(code, 0) + count

    def finish(self) -> Summary:
        """The summary as of now."""
        summary = self.summary
        if self._started is not None:
            summary.seconds = time.monotonic() - self._started
            summary.items_per_second = summary.items / max(summary.seconds, 1e-9)
        summary.bottleneck = max(summary.stages, key=lambda stage: summary.stages[stage])
        summary.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if self._rewrites:
            print("\r\033[K", end="", file=self._stream, flush=True)
        return summary

    def _say_progress(self, stream: IO[str]) -> None:
        summary = self.numbers()
        if self._json:
            print(json.dumps({"event": "progress", **summary}), file=stream, flush=True)
            return
        line = (
            "{done:,}/{total:,} ({percent:.1f}%)  {now:.1f}/s now, {average:.1f}/s on average, ETA {eta}, "
            "{errors} errors, {bottleneck}-bound"
        ).format(**summary)
        end = "" if self._rewrites else "\n"
        head = "\r\033[K" if self._rewrites else "clipfast embed: "
        print(head + line, end=end, file=stream, flush=True)

    def numbers(self) -> dict[str, Any]:
        """What a progress line says."""
        summary = self.summary
        (then, before), (last, items) = self._recent[0], self._recent[-1]
        assert self._started is not None
        average = items / max(last - self._started, 1e-9)
        todo = summary.planned_items - summary.skipped_items - items
        return {
            "done": summary.skipped_items + items,
            "total": summary.planned_items,
            "percent": 100 * (summary.skipped_items + items) / max(summary.planned_items, 1),
            "now": (items - before) / max(last - then, 1e-9),
            "average": average,
            "eta": _duration(todo / average) if average else "unknown",
            "errors": self._failed,
            "bottleneck": max(summary.stages, key=lambda stage: summary.stages[stage]),
        }

    def as_dict(self) -> dict[str, Any]:
        return asdict(self.finish())


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
