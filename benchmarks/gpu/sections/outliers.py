"""How near to float64 are whole towers with what trained ones have: outlier channels, and norms with skewed gains.

Nothing is timed. Ours in bf16 is to be no further away than torch's bf16, and fp8 is to reach a cosine of 0.99; a
missed target is a figure, not a failure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F

from benchmarks import work as inputs
from benchmarks.gpu.cell import CHECKED, DeviceLostError, device_is_lost
from benchmarks.gpu.contestants import Call, Contestants
from benchmarks.gpu.context import Context, Row
from benchmarks.gpu.libraries import why
from benchmarks.gpu.plan import PEERS, Choice
from tests.random_weights import with_outliers

LEAST_FP8 = 0.99


def run(context: Context) -> Iterator[Row]:
    """A row for torch, and one for each of ours."""
    choice = Choice.of(context.options)
    libraries = tuple(name for name in PEERS if name != "torch eager")
    choice = replace(choice, without=(*choice.without, *libraries))
    contestants = Contestants(choice, context, with_outliers)
    images = 4 if context.rehearsal else CHECKED
    pixels = inputs.pixels(images, contestants.config.vision.image_size)
    exact = contestants.exact_images(pixels)
    calls = contestants.images(pixels).calls
    of_torch = float("inf")
    for name in sorted(calls, key=lambda name: name.startswith("clipfast")):
        row: Row = {"name": f"{choice.model} with outliers, {name}"}
        call = calls[name]
        if isinstance(call, str):
            yield {**row, "outcome": f"not measured: {call}"}
            continue
        try:
            distance = _distance(call, exact)
        except Exception as error:  # anyone's: the others are measured without it
            row |= {"ok": not name.startswith("clipfast"), "said": why(error)}
            if device_is_lost(error):
                raise DeviceLostError({**row, "ok": False, "lost": name}) from error
            yield row
            continue
        row["cosine"] = f"1 - {distance:.1e}"
        if name.startswith("clipfast"):
            limit = 1 - LEAST_FP8 if "fp8" in name or "int8" in name else of_torch
            row |= {"target": f"1 - {limit:.1e}", "reached": distance <= limit}
        else:
            of_torch = distance
        yield row


def _distance(call: Call, exact: torch.Tensor) -> float:
    """1 - the smallest cosine."""
    with torch.inference_mode():
        found = call().cpu().double()
    return 1 - F.cosine_similarity(found, exact, dim=-1).min().item()
