"""How fast is the model as it is called: the engine in each precision, beside plain torch and the libraries.

Random weights at the published sizes, the same for everyone. Contestants of a cell take turns, so that a clock that
falls falls for all. Peers read normalised pixels that lie on the device in their dtype, ours reads uint8. Operations
are the textbook's, whoever leaves some out; a rate is also given as a share of torch's own matrix product in the same
process. Cosines are to float64. Cells that time does not reach, and peers that are missing or fail, are "not measured".
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks import work as inputs
from benchmarks.gpu.contestants import Call, Calls, Contestants, encode_images, encode_texts
from benchmarks.gpu.context import Context, Row, measure_ceilings
from benchmarks.gpu.libraries import why
from benchmarks.work import vision_flops
from clipfast.config import ARCHITECTURES, ModelConfig
from clipfast.engine import Engine
from clipfast.errors import UnsupportedError
from clipfast.inputs import EXACT, DecodeOptions
from clipfast.inputs.jpeg_decoders import JPEG_DECODERS
from tests.random_weights import tiny, tiny_resnet


@dataclass(frozen=True)
class Step:
    """Cells of one model. batches: of images on the device; the largest is compiled with graphs too.

    compiled: whether torch's compiler takes part in them. others: whether images from the host and texts follow.
    """

    model: str
    batches: tuple[int, ...]
    compiled: bool = True
    others: bool = False


# In order of worth; what is not reached is said to be.
STEPS = (
    Step("ViT-B-32", (1, 56, 256)),
    Step("ViT-L-14", (1, 49, 256)),
    Step("ViT-B-16", (1, 57, 256)),
    Step("ViT-L-14-336", (1, 29, 256)),
    Step("ViT-H-14", (1, 39, 256)),
    Step("RN50", (1, 128, 256)),
    Step("ViT-B-32", (8, 32, 64, 128), compiled=False, others=True),
    Step("ViT-L-14", (8, 32, 64, 128), compiled=False, others=True),
)
REHEARSAL = (Step("tiny", (2,), others=True), Step("tiny-resnet", (1,)))
_TINY: dict[str, ModelConfig] = {"tiny": tiny(), "tiny-resnet": tiny_resnet()}
FROM_HOST = 1024
CAPTIONS, LONG_TEXTS = 1024, 256
CHECKED = 8  # images and texts that are compared with float64
ROUNDS, SECONDS = 300, 1.0
SECONDS_OF_A_CELL = 15
LEAST_COSINE = {"bf16": 0.999, "fp16": 0.999, "fp8": 0.99, "int8": 0.99}


def run(context: Context) -> Iterator[Row]:
    """A row a contestant of each cell, the most wanted cells first."""
    product = measure_ceilings(context)["flops"]
    if not context.rehearsal:
        yield {"name": "torch.matmul 8192^3 bf16", "TFLOPS": round(product / 1e12)}
    for step in REHEARSAL if context.rehearsal else STEPS:
        if _late(context, SECONDS_OF_A_CELL):
            for batch in step.batches:
                yield _not_reached(f"{step.model} batch {batch}")
        else:
            config = _TINY[step.model] if context.rehearsal else ARCHITECTURES[step.model]
            yield from _Cells(config, context, product).rows(step)


def _late(context: Context, seconds: float) -> bool:
    return context.seconds_left() < seconds and not context.rehearsal


def _not_reached(name: str) -> Row:
    return {"name": name, "outcome": "not measured: out of time"}


class _Cells:
    """One architecture's cells."""

    def __init__(self, config: ModelConfig, context: Context, product: float) -> None:
        self.config, self.context, self.product = config, context, product
        self.contestants = Contestants(config, context)

    def rows(self, step: Step) -> Iterator[Row]:
        """The step's cells: device batches, then what comes from the host, then texts."""
        images = inputs.pixels(CHECKED, self.config.vision.image_size)
        exact = encode_images(self.contestants.oracle, images[: max(step.batches)])
        for batch in step.batches:
            if _late(self.context, SECONDS_OF_A_CELL):
                yield _not_reached(f"{self.config.name} batch {batch}")
            else:
                yield from self._device_batch(batch, step, exact[:batch])
        if step.others:
            yield from self._from_host(4 if self.context.rehearsal else FROM_HOST)
            yield from self._captions(3 if self.context.rehearsal else CAPTIONS)
            yield from self._long_texts(2 if self.context.rehearsal else LONG_TEXTS)

    # ---- images ----------------------------------------------------------------------------------------------

    def _device_batch(self, batch: int, step: Step, exact: torch.Tensor) -> Iterator[Row]:
        calls = self.contestants.images(
            inputs.pixels(batch, self.config.vision.image_size),
            compiled=step.compiled,
            with_graphs=batch == max(step.batches),
        )
        for name, row in self._measured(calls, exact).items():
            if "ms" in row:
                self._add_rates(row, batch)
                if name.startswith("clipfast"):
                    row["host us"] = _host_microseconds(calls[name])
            yield {"name": f"{self.config.name} batch {batch}, {name}", **row}

    def _add_rates(self, row: Row, batch: int) -> None:
        rate = batch * vision_flops(self.config) / (row["ms"] / 1e3)
        row["items/s"] = round(1e3 * batch / row["ms"])
        row["TFLOPS"] = round(rate / 1e12, 1)
        row["of matmul"] = f"{100 * rate / self.product:.0f}%"

    def _from_host(self, count: int) -> Iterator[Row]:
        """uint8 batches and JPEG files in ordinary memory, through the whole pipeline, on the wall clock."""
        precision, engine = next(iter(self.contestants.engines.items()))
        size = self.config.vision.image_size
        images = inputs.pixels(min(count, 256), size)
        batch = np.tile(images, (-(-count // len(images)), 1, 1, 1))[:count]
        yield self._rate(f"{count} from uint8 on the host, clipfast {precision}", engine, batch)
        if find_spec("simplejpeg") is None:
            yield {"name": "JPEG", "outcome": "not measured: simplejpeg is not installed"}
            return
        files = [_jpeg(image) for image in images]
        photographs = [_jpeg(image[:, :480]) for image in inputs.pixels(min(count, 64), 640)]
        for said, using, sources in (
            (f"JPEG {size} x {size}", engine, files),
            ("JPEG 640 x 480", engine, photographs),
            ("JPEG 640 x 480 resized on the device", self.contestants.resizing, photographs),
        ):
            given = [sources[i % len(sources)] for i in range(count)]
            yield self._rate(f"{count} from {said}, clipfast {precision}", using, given)
        given = [photographs[i % len(photographs)] for i in range(count)]
        for decoder in JPEG_DECODERS:
            said = f"{count} from JPEG 640 x 480 by {decoder}, clipfast {precision}"
            try:
                options = DecodeOptions(decode=decoder)
            except UnsupportedError as error:
                yield {"name": f"{self.config.name} {said}", "outcome": f"not measured: {error}"}
            else:
                yield self._rate(said, engine, given, options)

    def _rate(self, said: str, engine: Engine, given: object, decode: DecodeOptions = EXACT) -> Row:
        row: Row = {"name": f"{self.config.name} {said}"}
        if _late(self.context, SECONDS_OF_A_CELL):
            return _not_reached(row["name"])
        encoded = encode_images(engine, given, decode)
        if not self.context.rehearsal:
            seconds = []
            for _ in range(3):
                started = time.perf_counter()
                encode_images(engine, given, decode)
                seconds.append(time.perf_counter() - started)
            row["items/s"] = round(len(encoded) / statistics.median(seconds))
        return row

    # ---- texts -----------------------------------------------------------------------------------------------

    def _captions(self, count: int) -> Iterator[Row]:
        """Packed captions, from str, beside the same ones padded to 77."""
        yield from self._texts(f"{count} captions", inputs.texts("captions", count))

    def _long_texts(self, count: int) -> Iterator[Row]:
        """Texts that fill the context, so that nothing is gained by packing."""
        captions = inputs.texts("captions", CAPTIONS)
        length = self.config.text.context_length
        texts = [" ".join(captions[i : i + length // 2]) for i in range(count)]
        yield from self._texts(f"{count} texts of {length} tokens", texts)

    def _texts(self, said: str, texts: list[str]) -> Iterator[Row]:
        if _late(self.context, SECONDS_OF_A_CELL):
            yield _not_reached(f"{self.config.name} {said}")
            return
        exact = encode_texts(self.contestants.oracle, texts[:CHECKED])
        for name, row in self._measured(self.contestants.texts(texts), exact).items():
            if "ms" in row:
                row["items/s"] = round(1e3 * len(texts) / row["ms"])
            yield {"name": f"{self.config.name} {said}, {name}", **row}

    # ---- measuring -------------------------------------------------------------------------------------------

    def _measured(self, calls: Calls, exact: torch.Tensor) -> dict[str, Row]:
        """Each contestant's cosine, memory and times, in turns."""
        rows: dict[str, Row] = {}
        running: dict[str, Call] = {}
        with torch.inference_mode():
            for name, call in calls.items():
                rows[name] = self._checked(name, call, exact)
                if not isinstance(call, str) and "outcome" not in rows[name]:
                    running[name] = call
            if not self.context.rehearsal:
                timed = self.context.in_turns(running, seconds=SECONDS, most=ROUNDS)
                for name, times in timed.items():
                    low, *_, high = statistics.quantiles(times, n=5)
                    rows[name] |= {"ms": _short(statistics.median(times))}
                    rows[name] |= {"p20": _short(low), "p80": _short(high), "n": len(times)}
        return rows

    def _checked(self, name: str, call: Call | str, exact: torch.Tensor) -> Row:
        if isinstance(call, str):
            return {"outcome": f"not measured: {call}"}
        held = 0
        if not self.context.rehearsal:
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
        try:
            found = call()[: len(exact)].cpu().double()
        except Exception as error:
            if name.startswith("clipfast"):
                raise
            return {"outcome": f"not measured: {why(error)}"}
        cosine = F.cosine_similarity(found, exact.double(), dim=-1).min().item()
        least = LEAST_COSINE[name.split()[-1]] if name.startswith("clipfast") else 0.0
        row: Row = {"ok": cosine >= least, "cosine": f"1 - {1 - cosine:.1e}"}
        if not self.context.rehearsal:
            # Of the call, beside the weights of all contestants: its activations, and a first call's graph.
            row["MiB"] = round((torch.cuda.max_memory_allocated() - held) / 2**20)
        return row


def _host_microseconds(call: Call) -> int:
    """What the host spends on a batch, the device idle before and left alone meanwhile."""
    spent = []
    for _ in range(30):
        torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        spent.append(time.perf_counter() - started)
    return round(1e6 * statistics.median(spent))


def _jpeg(image: np.ndarray[Any, Any]) -> bytes:
    file = BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, "JPEG", quality=90)
    return file.getvalue()


def _short(value: float) -> float:
    return float(f"{value:.4g}")
