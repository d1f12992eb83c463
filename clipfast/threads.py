"""Threads that work for a caller on a GPU: what they launch comes after what the caller launched, as it would there."""

from __future__ import annotations

from collections.abc import Callable

import torch


def on_callers_streams() -> Callable[[], None]:
    """What makes this thread's current CUDA streams those of another thread, which calls it first of all.

    A thread begins on the default streams, which wait for no other: tensors of the caller would be read before they are
    written.
    """
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return _nothing
    current = torch.cuda.current_device()
    devices = [index for index in range(torch.cuda.device_count()) if index != current]
    streams = [torch.cuda.current_stream(index) for index in (*devices, current)]

    def enter() -> None:
        for stream in streams:  # each makes its device the current one
            torch.cuda.set_stream(stream)

    return enter


def _nothing() -> None:
    pass
