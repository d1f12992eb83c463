"""Where the time of one batch of images goes, operation by operation.

python -m benchmarks.op_profile ViT-B-32 --precision bf16 --batch 32 [--backend cpu]

Random weights of full size. Times are medians over the calls of one kind, on as many threads as there are processors;
"products" are the linear layers, patch embedding and convolutions, with what is fused into them. Operations are called
one by one from Python here, as they are for the first batch of a size.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

import clipfast
from benchmarks import work as inputs
from benchmarks.machine import machine_info
from benchmarks.weights import write_weights
from clipfast.encoder import TowerEncoder
from clipfast.ops import OPERATIONS

PRODUCTS = ("linear", "patch_embed", "convolution")
_CALLS = 8


class Clock:
    """Wraps operations so that each call's seconds are kept under a name that tells its shape."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def timed(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            start = perf_counter()
            result = operation(*arguments, **options)
            self.seconds[_label(name, arguments, options)].append(perf_counter() - start)
            return result

        return call


def _label(name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> str:
    x = arguments[0]
    label = f"{name} {'x'.join(map(str, x.shape))}"
    if name == "linear":
        label += f" -> {arguments[1].shape[0]} {options.get('activation') or ''}"
    if name == "convolution":
        features, _, kernel, _ = arguments[1].shape
        label += f" -> {features}, {kernel}x{kernel}"
    return label + (" + residual" if options.get("residual") is not None else "")


def profile(model: clipfast.Model, batch: int) -> tuple[float, dict[str, tuple[float, float]]]:
    """Median seconds of a batch, and of each operation: (calls a batch, median seconds of a call)."""
    loaded: Any = model._encoder  # noqa: SLF001  (its operations are what is looked at)
    pixels = torch.from_numpy(inputs.pixels(batch, model.config.vision.image_size))
    clock = Clock()
    timed = {name: clock.timed(name, getattr(loaded.ops, name)) for name in OPERATIONS}
    ops = replace(loaded.ops, **timed, repeated=None)
    encoder = TowerEncoder(loaded.config, loaded.parameters, ops, loaded.device)

    def encode() -> float:
        start = perf_counter()
        with torch.inference_mode():
            for part in pixels.split(encoder.images_at_once):
                encoder.encode_pixels(part)
        return perf_counter() - start

    for _ in range(2):
        encode()
    clock.seconds.clear()
    total = median(encode() for _ in range(_CALLS))
    return total, {
        label: (len(seconds) / _CALLS, median(seconds)) for label, seconds in clock.seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Where the time of one batch of images goes.")
    parser.add_argument("model", choices=inputs.MEASURED)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--batch", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as folder:
        weights = write_weights(arguments.model, Path(folder))
        model = clipfast.load(weights, precision=arguments.precision, backend=arguments.backend)
    total, operations = profile(model, arguments.batch)
    machine = machine_info()["cpu"]
    print(f"{arguments.model} {arguments.precision} batch {arguments.batch} on {machine}")
    print(f"{1e3 * total:.1f} ms a batch, {arguments.batch / total:.1f} images/s")
    in_products = 0.0
    for label, (calls, seconds) in sorted(
        operations.items(), key=lambda item: -item[1][0] * item[1][1]
    ):
        share = calls * seconds / total
        in_products += share if label.split()[0] in PRODUCTS else 0
        print(f"{label:<50} {calls:4.0f} x {1e3 * seconds:8.3f} ms {share:7.1%}")
    print(f"products: {in_products:.1%}")


if __name__ == "__main__":
    main()
