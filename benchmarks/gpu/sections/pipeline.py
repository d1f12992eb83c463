"""How fast is ours from uint8 batches and JPEG files in ordinary memory: the whole pipeline, on the wall clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from importlib.util import find_spec
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import work as inputs
from benchmarks.gpu.cell import device_is_lost, not_measured
from benchmarks.gpu.contestants import Contestants, encode_images
from benchmarks.gpu.context import Context, Row
from benchmarks.gpu.libraries import why
from benchmarks.gpu.plan import Choice
from clipfast.engine import Engine
from clipfast.errors import UnsupportedError
from clipfast.inputs import EXACT, DecodeOptions
from clipfast.inputs.jpeg_decoders import JPEG_DECODERS

IMAGES = 1024
SECONDS_OF_A_ROW = 15


def run(context: Context) -> Iterator[Row]:
    """A row a kind of source, of one model in ours' first precision."""
    choice = Choice.of(context.options)
    count = 4 if context.rehearsal else IMAGES
    contestants = Contestants(choice, context)
    precision, engine = contestants.first_engine
    size = contestants.config.vision.image_size
    images = inputs.pixels(min(count, 256), size)
    batch = np.tile(images, (-(-count // len(images)), 1, 1, 1))[:count]

    def row(said: str, using: Engine, given: object, decode: DecodeOptions = EXACT) -> Row:
        name = f"{choice.model} {count} from {said}, clipfast {precision}"
        if context.seconds_left() < SECONDS_OF_A_ROW:
            return not_measured(name, "out of time")
        return {"name": name, **_rate(using, given, decode, context)}

    yield row("uint8 on the host", engine, batch)
    if find_spec("simplejpeg") is None:
        yield not_measured(f"{choice.model} JPEG", "simplejpeg is not installed")
        return
    files = _repeated([_jpeg(image) for image in images], count)
    photographs = [_jpeg(image[:, :480]) for image in inputs.pixels(min(count, 64), 640)]
    given = _repeated(photographs, count)
    yield row(f"JPEG {size} x {size}", engine, files)
    yield row("JPEG 640 x 480", engine, given)
    yield row("JPEG 640 x 480 resized on the device", contestants.resizing, given)
    for decoder in JPEG_DECODERS:
        said = f"JPEG 640 x 480 by {decoder}"
        try:
            options = DecodeOptions(decode=decoder)
        except UnsupportedError as error:
            yield not_measured(f"{choice.model} {count} from {said}", str(error))
        else:
            yield row(said, engine, given, options)


def _rate(engine: Engine, given: object, decode: DecodeOptions, context: Context) -> Row:
    """Images a second, the median of three calls; an error is the row's alone."""
    seconds = []
    try:
        encoded = encode_images(engine, given, decode)
        for _ in range(0 if context.rehearsal else 3):
            started = time.perf_counter()
            encode_images(engine, given, decode)
            seconds.append(time.perf_counter() - started)
    except Exception as error:
        if device_is_lost(error):
            raise
        return {"ok": False, "said": why(error)}  # of one decoder: the others are measured
    return {"items/s": round(len(encoded) / statistics.median(seconds))} if seconds else {}


def _repeated(files: list[bytes], count: int) -> list[bytes]:
    return [files[i % len(files)] for i in range(count)]


def _jpeg(image: np.ndarray[Any, Any]) -> bytes:
    file = BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, "JPEG", quality=90)
    return file.getvalue()
