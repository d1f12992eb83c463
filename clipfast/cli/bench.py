"""clipfast bench: this machine's items/s and latency, and where the time goes, from the installed package alone."""

from __future__ import annotations

import argparse
import io
import os
import platform
import sys
from collections.abc import Callable, Iterator
from statistics import median, quantiles
from time import perf_counter
from typing import TYPE_CHECKING, Any

from clipfast.cli.model_options import add_model_options, load_model, positive
from clipfast.cli.outcome import Exit
from clipfast.cli.output import print_json, print_table

if TYPE_CHECKING:
    import torch

    from clipfast.api import Model

PHOTO = (640, 480)  # columns and rows of the JPEG files, quality 90
_MINIMUM_CALLS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch-size", type=_sizes, default=[1, 8, 32], metavar="B,...", help="default 1,8,32"
    )
    parser.add_argument(
        "--input",
        choices=("uint8", "jpeg", "text"),
        default="uint8",
        help=f"pixels that need no resizing, {PHOTO[0]} x {PHOTO[1]} files in memory, or captions (default uint8)",
    )
    parser.add_argument(
        "--seconds", type=_seconds, default=3.0, metavar="S", help="per batch size (default 3)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    add_model_options(parser)


def run(options: argparse.Namespace) -> int:
    """Measure each batch size and print a row for each."""
    model = load_model(options)
    rows = []
    for batch_size in options.batch_size:
        print(f"batch size {batch_size} ...", file=sys.stderr, flush=True)
        rows.append(measure(model, options.input, batch_size, options.seconds))
    if options.json:
        print_json(
            {"machine": _machine(), "model": _about(model), "input": options.input, "rows": rows}
        )
        return Exit.OK
    about = _about(model)
    print("{name}, {backend} {precision} on {device}; input {0}".format(options.input, **about))
    stages = list(rows[0]["stages_ms"])
    headers = ("batch", "items/s", "p50 ms", "p95 ms", *(f"{stage} ms" for stage in stages))
    print_table(headers, [_cells(row, stages) for row in rows])
    print("stages: each run alone on one batch, decode and resize on one thread")
    return Exit.OK


def measure(model: Model, kind: str, batch_size: int, seconds: float) -> dict[str, Any]:
    """One row of the result.

    Returns: batch_size; items_per_second (of files: streamed, so that decoding overlaps computing); p50_ms and p95_ms
        of a call with one batch; calls; stages_ms, each stage alone.
    """
    from clipfast.cli.stages import image_stages, text_stages

    if kind == "text":
        texts = captions(batch_size)
        times = _call_times(lambda: model.encode_texts(texts), seconds)
        stages, rate = text_stages(model, texts), batch_size / median(times)
    elif kind == "jpeg":
        files = photographs(batch_size)
        times = _call_times(lambda: model.encode_images(files, batch_size=batch_size), seconds / 2)
        stages, rate = image_stages(model, files), _streamed(model, files, batch_size, seconds / 2)
    else:
        pixels = random_pixels(batch_size, model.config.vision.image_size)
        times = _call_times(lambda: model.encode_images(pixels, batch_size=batch_size), seconds)
        stages, rate = image_stages(model, pixels), batch_size / median(times)
    return {
        "batch_size": batch_size,
        "items_per_second": rate,
        "p50_ms": 1e3 * median(times),
        "p95_ms": 1e3 * quantiles(times, n=20, method="inclusive")[-1],
        "calls": len(times),
        "stages_ms": stages,
    }


def _call_times(call: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each call, after one to warm up. Results live on the host, so a call ends when its work has."""
    call()
    times: list[float] = []
    end = perf_counter() + seconds
    while len(times) < _MINIMUM_CALLS or perf_counter() < end:
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return times


def _streamed(model: Model, files: list[bytes], batch_size: int, seconds: float) -> float:
    """Files a second through one call that is fed until the time is over, and then drained."""
    start = perf_counter()

    def feed() -> Iterator[bytes]:
        yield from files
        while perf_counter() - start < seconds:
            yield from files

    encoded = model.encode_images(feed(), batch_size=batch_size)
    return len(encoded) / (perf_counter() - start)


def random_pixels(count: int, size: int) -> torch.Tensor:
    """(count, 3, size, size) uint8."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def photographs(count: int) -> list[bytes]:
    """JPEG files of smooth shapes with some grain, about the bytes a pixel of a photograph."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    files = []
    for _ in range(count):
        shapes = Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        smooth = np.asarray(shapes.resize(PHOTO, Image.Resampling.BICUBIC), dtype=np.float32)
        grain = random.normal(0, 6, smooth.shape)
        file = io.BytesIO()
        pixels = np.clip(smooth + grain, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def captions(count: int) -> list[str]:
    """Different texts of 10 to 25 tokens, as web captions have."""
    colours = ("red", "green", "blue", "yellow", "black", "white", "orange")
    things = ("bicycle", "teapot", "lighthouse", "violin", "sailing boat", "wooden chair", "fox")
    places = (
        "on a quiet street",
        "in front of a brick wall at night",
        "by the sea",
        "in tall grass",
    )
    return [
        f"a photo of a {colours[i % 7]} {things[i // 7 % 7]} {places[i // 49 % 4]}, number {i}"
        for i in range(count)
    ]


def _cells(row: dict[str, Any], stages: list[str]) -> list[str]:
    numbers = (row["items_per_second"], row["p50_ms"], row["p95_ms"])
    numbers += tuple(row["stages_ms"][stage] for stage in stages)
    return [str(row["batch_size"]), *(f"{number:,.2f}" for number in numbers)]


def _about(model: Model) -> dict[str, str]:
    return {
        "name": model.config.name,
        "backend": model.backend,
        "precision": model.precision,
        "device": str(model.device),
    }


def _machine() -> dict[str, Any]:
    from importlib.metadata import version

    import torch

    from clipfast.cli.doctor import cpu_model

    return {
        "cpu": cpu_model(),
        "processors": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "clipfast": version("clipfast"),
    }


def _sizes(text: str) -> list[int]:
    return [positive(size) for size in text.split(",")]


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got {text}")
    return value
