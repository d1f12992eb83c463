"""Contestants in processes of their own, of which only the one whose turn it is can run.

Runtimes keep threads spinning for a while after each call, in the hope of the next. Two of them alive on the same cores
would slow each other by what is no work at all. So every worker is stopped (SIGSTOP) except during its turn.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from benchmarks.peers import Peer
from benchmarks.work import Work

ROOT = Path(__file__).parent.parent


class Absent(Exception):  # noqa: N818
    """The contestant cannot do this work here; the message says why."""


class Contestant:
    """One peer, or ours, ready to take its turns at one cell.

    Attributes:
        items: what one call serves. variant: the settings that were fastest; tried: items/s of each, when several.
    """

    def __init__(self, peer: Peer, work: Work) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process that writes it)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": str(work.threads), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )
        self._stopped = False
        self._peer = peer
        try:
            self.prepare(work)
        except BaseException:
            self.close()
            raise

    def prepare(self, work: Work) -> None:
        """Make another cell the current one. Raises: Absent."""
        answer = self._ask(prepare=asdict(work), module=self._peer.module)
        self.items: int = answer["items"]
        self.variant: str = answer["variant"]
        self.tried: dict[str, float] = answer["tried"]

    def turn(self, seconds: float) -> float:
        """Mean seconds a call, over at least `seconds` of calls, while no other contestant runs."""
        mean: float = self._ask(turn=seconds)["seconds"]
        return mean

    def result(self) -> np.ndarray[Any, Any]:
        """What one call computes."""
        with tempfile.NamedTemporaryFile(suffix=".npy") as file:
            self._ask(result=file.name)
            array: np.ndarray[Any, Any] = np.load(file.name)
            return array

    def peak_rss_mib(self) -> float:
        """Largest resident memory since `prepare`, in MiB."""
        peak: float = self._ask(memory=True)["peak_rss_mib"]
        return peak

    def close(self) -> None:
        """End the process and whatever it started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, **message: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._stopped:
            os.killpg(self._process.pid, signal.SIGCONT)
        print(json.dumps(message), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise Absent(f"failed: {self._last_words()}")
        self._stop()
        answer: dict[str, Any] = json.loads(line)
        if "absent" in answer:
            raise Absent(answer["absent"])
        return answer

    def _stop(self) -> None:
        os.killpg(self._process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        self._stopped = True

    def _last_words(self) -> str:
        self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"
