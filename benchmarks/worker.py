"""One contestant in a process of its own: prepares a cell, then computes when it is told to.

Messages are JSON lines on stdin and on the descriptor that stdout was; whatever libraries print goes to stderr.

    {"prepare": {...Work...}, "module": "benchmarks.peers.openvino"} -> {"items": 32, "variant": ..., "tried": {...}}
    {"turn": 0.3} -> {"seconds": 0.021}                a call, the mean over at least 0.3 s of calls
    {"result": "/tmp/x.npy"} -> {}                     what the calls compute
    {"memory": true} -> {"peak_rss_mib": 812.0}        since `prepare`

A cell whose packages are missing answers {"absent": "not installed: openvino"}; what fails ends the process, and its
traceback on stderr says why.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.peers import Prepared
from benchmarks.work import Work

# Calls shorter than this are preceded by one that is not timed, for the caches that another process has used since.
_WARM_BELOW = 0.5
# Of each variant, the best of so many turns: one alone may meet whatever else the machine does.
_PROBE_SECONDS, _PROBES = 1.0, 2
_PR_SET_PDEATHSIG = 1


class Worker:
    """Answers messages, one at a time."""

    def __init__(self) -> None:
        self._prepared: Prepared | None = None
        self._call_seconds = 0.0

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        if "prepare" in message:
            return self._prepare(Work(**message["prepare"]), message["module"])
        assert self._prepared is not None, "prepare comes first"
        if "turn" in message:
            return {"seconds": self._turn(self._prepared, message["turn"])}
        if "result" in message:
            import numpy as np

            np.save(message["result"], self._prepared.result())
            return {}
        return {"peak_rss_mib": _peak_rss_mib()}

    def _prepare(self, work: Work, name: str) -> dict[str, Any]:
        """The fastest of the variants that can be prepared."""
        module = importlib.import_module(name)
        for package in module.requires(work):
            if find_spec(package) is None:
                return {"absent": f"not installed: {package}"}
        tried: dict[str, Any] = {}
        fastest, variant, variants = 0.0, "", module.variants(work)
        for candidate in variants:
            prepared = module.prepare(work, candidate)
            if len(variants) == 1:
                rate = 1.0
            else:
                self._call_seconds = 0.0
                turns = [self._turn(prepared, _PROBE_SECONDS) for _ in range(_PROBES)]
                rate = prepared.items / min(turns)
                tried[candidate] = round(rate, 3)
            if rate > fastest:
                self._prepared, fastest, variant = prepared, rate, candidate
            del prepared
        assert self._prepared is not None
        _reset_peak_rss()
        return {"items": self._prepared.items, "variant": variant, "tried": tried}

    def _turn(self, prepared: Prepared, seconds: float) -> float:
        """Mean seconds of a call."""
        if self._call_seconds < _WARM_BELOW:
            prepared.call()
        calls, start = 0, perf_counter()
        while True:
            prepared.call()
            calls += 1
            elapsed = perf_counter() - start
            if elapsed >= seconds:
                self._call_seconds = elapsed / calls
                return self._call_seconds


def _peak_rss_mib() -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("Linux always has VmHWM")


def _reset_peak_rss() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def main() -> None:
    # A paused worker must not outlive the session that would wake it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        print(json.dumps(worker.answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
