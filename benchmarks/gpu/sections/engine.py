"""How fast is the model as it is called: the engine in each precision, beside torch eager and compiled, side by side.

Random weights at the published sizes. Contestants of a cell take turns, so that a clock that falls falls for all. Peers
read normalised pixels that lie on the device in their dtype, ours reads uint8. Operations are the textbook's, whoever
leaves some out; a rate is also given as a share of torch's own matrix product in the same process. Cosines are to
float64. A cell that time does not reach is "not measured"; so are libraries that are not installed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from io import BytesIO
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks import work as inputs
from benchmarks.gpu.context import Context, Row, measure_ceilings
from benchmarks.gpu.libraries import LIBRARIES, vision_towers
from benchmarks.gpu.towers import ScaledLayer, TextTower, VisionTower, narrowed
from benchmarks.work import vision_flops
from clipfast.backends import select_ops
from clipfast.backends.eight_bit import CODES, in_8_bits, parameters_in_8_bits
from clipfast.backends.eight_bit import unsupported_reason as not_in_8_bits
from clipfast.backends.reference import REFERENCE
from clipfast.checkpoint.folds import fold
from clipfast.config import ARCHITECTURES, ModelConfig
from clipfast.device import DeviceLayer, HostLayer
from clipfast.encoder import TowerEncoder
from clipfast.engine import Engine
from clipfast.inputs import load_tokenizer
from clipfast.parameters import map_tensors
from clipfast.placement import layer_of
from tests.random_weights import random_weights, tiny

Call = Callable[[], torch.Tensor]
# In order of worth; what is not reached is said to be.
CELLS = {
    "ViT-B-32": (1, 56, 256, 8, 32, 64, 128),
    "ViT-L-14": (1, 49, 256, 8, 32, 64, 128),
    "ViT-B-16": (1, 57, 256),
    "ViT-L-14-336": (1, 29, 256),
    "ViT-H-14": (1, 39, 256),
}
CAPTIONS = 1024
CHECKED = 8  # images and texts that are compared with float64
ROUNDS, SECONDS = 300, 1.0
SECONDS_OF_A_CELL, SECONDS_OF_A_COMPILATION = 15, 75
LEAST_COSINE = {"bf16": 0.999, "fp16": 0.999, "fp8": 0.99, "int8": 0.99}


def run(context: Context) -> Iterator[Row]:
    """A row a contestant of each cell, the most wanted cells first."""
    product = measure_ceilings(context)["flops"]
    if not context.rehearsal:
        yield {"name": "torch.matmul 8192^3 bf16", "TFLOPS": round(product / 1e12)}
    for peer in LIBRARIES:
        if find_spec(peer) is None:
            yield {"name": peer, "outcome": "not measured: it is not installed"}
    for name, batches in {"tiny": (2,)}.items() if context.rehearsal else CELLS.items():
        config = tiny() if context.rehearsal else ARCHITECTURES[name]
        if _late(context, SECONDS_OF_A_CELL):
            yield {"name": name, "outcome": "not measured: out of time"}
        else:
            yield from _Model(config, context, product).rows(batches)


def _late(context: Context, seconds: float) -> bool:
    return context.seconds_left() < seconds and not context.rehearsal


class _Model:
    """One architecture: ours in each precision, and the plain program that peers run."""

    def __init__(self, config: ModelConfig, context: Context, product: float) -> None:
        self.config, self.context, self.product = config, context, product
        self.weights = random_weights(config, seed=0)
        self.plain = narrowed(self.weights, self._plain_dtype, context.device)
        self.engines = dict(self._engines())

    @property
    def _plain_dtype(self) -> torch.dtype:
        return torch.float32 if self.context.rehearsal else torch.bfloat16

    def _engines(self) -> Iterator[tuple[str, Engine]]:
        device = self.context.device
        names = ("fp16",) if self.context.rehearsal else ("bf16", "fp16", "fp8", "int8")
        for name in names:
            dtype = torch.float16 if name == "fp16" else torch.bfloat16
            ops = select_ops(
                "triton" if self.context.rehearsal else "auto", device=device, dtype=dtype
            )
            if name in CODES:
                if not_in_8_bits(ops, device, name) is not None:
                    continue
                ops = in_8_bits(ops, device, name)
            parameters = fold(self.weights, self.config, dtype, quantise=ops.quantise)
            if name in CODES:
                parameters = parameters_in_8_bits(parameters, name)
            moved = map_tensors(parameters, lambda part: part.to(device))
            encoder = TowerEncoder(self.config, moved, ops, device)
            layer: DeviceLayer = layer_of(device) or HostLayer()
            yield name, Engine(encoder, load_tokenizer(), layer=layer)

    def rows(self, batches: tuple[int, ...]) -> Iterator[Row]:
        """The architecture's cells: device batches, then what comes from the host, then texts."""
        for batch in batches:
            if _late(self.context, SECONDS_OF_A_CELL):
                yield {"name": f"{self.config.name} batch {batch}", "outcome": "not measured"}
            else:
                yield from self._device_batch(batch, compiled=batch in batches[:3])
        if not _late(self.context, 2 * SECONDS_OF_A_CELL):
            yield from self._from_host(4 if self.context.rehearsal else 1024)
            yield from self._captions(3 if self.context.rehearsal else CAPTIONS)

    # ---- images on the device --------------------------------------------------------------------------------

    def _device_batch(self, batch: int, *, compiled: bool) -> Iterator[Row]:
        images = inputs.pixels(batch, self.config.vision.image_size)
        pixels = torch.from_numpy(images).to(self.context.device)
        normalised = torch.from_numpy(inputs.normalised(images, self.config))
        normalised = normalised.to(self.context.device, self._plain_dtype)
        calls: dict[str, Call] = {
            f"clipfast {name}": lambda engine=engine: _encode(engine, pixels)  # type: ignore[misc]
            for name, engine in self.engines.items()
        }
        calls |= self._peers(
            VisionTower, normalised, compiled=compiled, with_graphs=compiled and batch == 256
        )
        libraries = vision_towers(self.weights, self.config, self._plain_dtype, self.context.device)
        calls |= {
            name: lambda tower=tower: tower(normalised)  # type: ignore[misc]
            for name, tower in libraries.items()
        }
        exact = self._exact(images[:CHECKED])
        for name, row in self._measured(calls, exact).items():
            if "ms" in row:
                self._add_rates(row, batch)
            host = self._host_time(calls[name]) if name.startswith("clipfast") else {}
            yield {"name": f"{self.config.name} batch {batch}, {name}", **row, **host}

    def _exact(self, images: np.ndarray[Any, Any]) -> torch.Tensor:
        """float64 of the first images, on the CPU."""
        return _encode(self._oracle(), torch.from_numpy(images))

    def _oracle(self) -> Engine:
        parameters = fold(self.weights, self.config, torch.float64)
        encoder = TowerEncoder(self.config, parameters, REFERENCE, torch.device("cpu"))
        return Engine(encoder, load_tokenizer())

    def _peers(
        self,
        tower: type[VisionTower | TextTower],
        values: torch.Tensor,
        *,
        compiled: bool,
        with_graphs: bool,
    ) -> dict[str, Call]:
        """torch eager; compiled, where there is time for it; in fp8, where the device has it."""
        module = tower(self.plain, self.config).eval()
        found = {"torch eager": module}
        if compiled and not self.context.rehearsal:
            if not _late(self.context, SECONDS_OF_A_COMPILATION):
                found["torch.compile"] = torch.compile(module, dynamic=False)
            if "fp8" in self.engines and not _late(self.context, SECONDS_OF_A_COMPILATION):
                scaled = tower(self.plain, self.config, ScaledLayer).eval()
                found["torch.compile fp8"] = torch.compile(scaled, dynamic=False)
            if with_graphs and not _late(self.context, 2 * SECONDS_OF_A_COMPILATION):
                found["torch.compile max-autotune"] = torch.compile(
                    module, dynamic=False, mode="max-autotune"
                )
        return {
            name: lambda program=program: program(values)  # type: ignore[misc]
            for name, program in found.items()
        }

    # ---- from the host, and texts ----------------------------------------------------------------------------

    def _from_host(self, count: int) -> Iterator[Row]:
        """uint8 batches and JPEG files in ordinary memory, through the whole pipeline, on the wall clock."""
        name, engine = next(iter(self.engines.items()))
        images = inputs.pixels(min(count, 256), self.config.vision.image_size)
        batch = np.tile(images, (-(-count // len(images)), 1, 1, 1))[:count]
        files = [_jpeg(image) for image in images]
        sources = {
            "uint8 on the host": batch,
            "JPEG": [files[i % len(files)] for i in range(count)],
        }
        if find_spec("simplejpeg") is None:
            yield {"name": "JPEG", "outcome": "not measured: simplejpeg is not installed"}
            del sources["JPEG"]
        for source, given in sources.items():
            row: Row = {"name": f"{self.config.name} {count} from {source}, clipfast {name}"}
            _encode(engine, given)
            if not self.context.rehearsal:
                seconds = []
                for _ in range(3):
                    started = time.perf_counter()
                    _encode(engine, given)
                    seconds.append(time.perf_counter() - started)
                row["items/s"] = round(count / statistics.median(seconds))
            yield row

    def _captions(self, count: int) -> Iterator[Row]:
        """Packed captions, from str, beside the same ones padded to 77, which are tokenized outside their time."""
        captions = inputs.texts("captions", count)
        ids = inputs.token_ids("captions", count, self.config.text.context_length)
        padded = torch.from_numpy(ids).long().to(self.context.device)
        options: dict[str, Any] = {
            "batch_size": None, "normalize": True, "truncate": False,
            "share_prefixes": None, "progress": False, "output_device": None,
        }  # fmt: skip
        calls: dict[str, Call] = {
            f"clipfast {name}": lambda engine=engine: engine.encode_texts(captions, **options)  # type: ignore[misc]
            for name, engine in self.engines.items()
        }
        calls |= self._peers(TextTower, padded, compiled=True, with_graphs=False)
        exact = self._oracle().encode_texts(captions[:CHECKED], **options)
        for name, row in self._measured(calls, exact).items():
            if "ms" in row:
                row["items/s"] = round(1e3 * count / row["ms"])
            yield {"name": f"{self.config.name} {count} captions, {name}", **row}

    # ---- measuring -------------------------------------------------------------------------------------------

    def _measured(self, calls: dict[str, Call], exact: torch.Tensor) -> dict[str, Row]:
        """Each contestant's cosine, memory and times, in turns."""
        rows: dict[str, Row] = {}
        with torch.inference_mode():
            for name, call in calls.items():
                rows[name] = self._checked(name, call, exact)
            if not self.context.rehearsal:
                times = self.context.in_turns(calls, seconds=SECONDS, most=ROUNDS)
                for name, row in rows.items():
                    low, *_, high = statistics.quantiles(times[name], n=5)
                    row |= {"ms": _short(statistics.median(times[name]))}
                    row |= {"p20": _short(low), "p80": _short(high), "n": len(times[name])}
        return rows

    def _checked(self, name: str, call: Call, exact: torch.Tensor) -> Row:
        held = 0
        if not self.context.rehearsal:
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
        found = call()[: len(exact)].cpu().double()
        cosine = F.cosine_similarity(found, exact.double(), dim=-1).min().item()
        least = LEAST_COSINE[name.split()[-1]] if name.startswith("clipfast") else 0.0
        row: Row = {"ok": cosine >= least, "cosine": f"1 - {1 - cosine:.1e}"}
        if not self.context.rehearsal:
            # Of the call, beside the weights of all contestants: its activations, and a first call's graph.
            row["MiB"] = round((torch.cuda.max_memory_allocated() - held) / 2**20)
        return row

    def _add_rates(self, row: Row, batch: int) -> None:
        rate = batch * vision_flops(self.config) / (row["ms"] / 1e3)
        row["items/s"] = round(1e3 * batch / row["ms"])
        row["TFLOPS"] = round(rate / 1e12, 1)
        row["of matmul"] = f"{100 * rate / self.product:.0f}%"

    def _host_time(self, call: Call) -> Row:
        """Microseconds that the host spends on a batch, the device idle before and left alone meanwhile."""
        if self.context.rehearsal:
            return {}
        spent = []
        for _ in range(30):
            torch.cuda.synchronize()
            started = time.perf_counter()
            call()
            spent.append(time.perf_counter() - started)
        return {"host us": round(1e6 * statistics.median(spent))}


def _encode(engine: Engine, images: object) -> torch.Tensor:
    return engine.encode_images(
        images,
        batch_size=None,
        normalize=True,
        errors="raise",
        progress=False,
        num_workers=None,
        output_device=None,
    )


def _jpeg(image: np.ndarray[Any, Any]) -> bytes:
    file = BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, "JPEG", quality=90)
    return file.getvalue()


def _short(value: float) -> float:
    return float(f"{value:.4g}")
