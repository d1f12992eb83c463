"""Programs that a run starts: each is a process group of its own, which goes as a whole, so that nothing of a program
that was stopped stays on the device.

Groups, and not sessions: whoever ends the run's own session ends its programs with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from shutil import which
from typing import Any

Row = dict[str, Any]
# Between two looks at a program that runs, and between asking it to end and ending it.
_LOOK, _GRACE = 5.0, 5.0
_running: set[subprocess.Popen[bytes]] = set()
_REFUSALS = (
    "ERR_NVGPUCTRPERM",
    "not supported on this",
    "Unable to find injection library",
    "Device not supported",
    "insufficient permissions",
    "Failed to initialize",
)


@dataclass(frozen=True)
class Finished:
    """status: None when it was stopped. said: what it printed, where that was not shown."""

    status: int | None
    said: str
    seconds: float


def run(
    command: list[str],
    seconds: float,
    *,
    shown: bool = False,
    look: Callable[[], None] | None = None,
    **options: Any,
) -> Finished:
    """Runs a program to its end, or for `seconds`.

    Args:
        shown: whether its output goes where ours does; what it says of errors is kept either way.
        look: called every few seconds while it runs.
    """
    started = time.monotonic()
    # A file: a child that outlives the program would keep a pipe open.
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, stdout=None if shown else said, stderr=said, process_group=0, **options
        )
        _running.add(process)
        try:
            status = _status(process, started + seconds, look)
        finally:
            _end(process)
            _running.discard(process)
        said.seek(0)
        text = said.read().decode(errors="replace")
    return Finished(status, text, round(time.monotonic() - started, 1))


def run_tool(command: list[str], seconds: float, **options: Any) -> Row:
    """A program's outcome: ok, failed with its last words, or "not available here" when the machine refuses it."""
    if which(command[0]) is None:
        return {"outcome": "not available here", "said": f"{command[0]} is not installed"}
    if seconds <= 0:
        return {"outcome": "not reached", "said": "no time was left"}
    done = run(command, seconds, **options)
    said = done.said.strip()
    if done.status is None:
        stopped = f"{command[0]} took more than {seconds:.0f} s"
        return {"outcome": "not reached", "said": f"{said[-2000:]}\n{stopped}".strip()}
    if any(words in said for words in _REFUSALS):
        return {"outcome": "not available here", "said": said[-500:]}
    if done.status:
        return {"outcome": "failed", "ok": False, "said": said[-2000:]}
    return {"outcome": "ok", "said": said[-500:]}


def end_with_programs() -> None:
    """From now on this process, when it is asked to end, ends what it has started first."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ended)


def _status(
    process: subprocess.Popen[bytes], deadline: float, look: Callable[[], None] | None
) -> int | None:
    while (left := deadline - time.monotonic()) > 0:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(min(_LOOK, left))
        if look is not None:
            look()
    _signal(process, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE)
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Whatever is left of its group, too."""
    _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _ended(number: int, _: object) -> None:
    programs = list(_running)
    for process in programs:
        _signal(process, signal.SIGTERM)
    stop = time.monotonic() + _GRACE / 2
    while time.monotonic() < stop and any(process.poll() is None for process in programs):
        time.sleep(0.05)
    for process in programs:
        _signal(process, signal.SIGKILL)
    os._exit(128 + number)
