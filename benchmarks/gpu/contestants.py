"""Who takes part in a cell: ours in each precision and on each backend, plain torch, and the libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import work as inputs
from benchmarks.gpu.context import Context
from benchmarks.gpu.libraries import library_towers, why
from benchmarks.gpu.plan import Choice, config_of
from benchmarks.gpu.programs import Program, compiled
from benchmarks.gpu.towers import ResNetTower, TextTower, VisionTower, narrowed
from clipfast.backends import select_ops, unsupported_reason
from clipfast.backends.eight_bit import CODES, in_8_bits, parameters_in_8_bits
from clipfast.backends.reference import REFERENCE
from clipfast.checkpoint.folds import fold
from clipfast.config import ResNetConfig
from clipfast.device import DeviceLayer, HostLayer
from clipfast.encoder import Encoder, TowerEncoder
from clipfast.engine import Engine
from clipfast.errors import UnsupportedError
from clipfast.inputs import EXACT, DecodeOptions, load_tokenizer
from clipfast.ops import Ops
from clipfast.parameters import Parameters, map_tensors
from clipfast.placement import layer_of
from tests.random_weights import random_weights

Call = Callable[[], torch.Tensor]
# A contestant, or a sentence that says why it takes no part.
Calls = dict[str, Call | str]
_RESNET_LAYERS = 16  # what its blocks take to compile, as a transformer's do
_AT_ONCE = 8  # images that float64 computes at once
_OURS_OF_IMAGES: dict[str, Any] = {
    "batch_size": None, "normalize": True, "errors": "raise",
    "progress": False, "num_workers": None, "output_device": None,
}  # fmt: skip
_OURS_OF_TEXTS: dict[str, Any] = {
    "batch_size": None, "normalize": True, "truncate": True,
    "share_prefixes": None, "progress": False, "output_device": None,
}  # fmt: skip


@dataclass(frozen=True)
class Entrants:
    """A cell's contestants without torch's compiler, and what is compiled for it: the tower, and what peers read."""

    calls: Calls
    tower: type[VisionTower | ResNetTower | TextTower]
    values: torch.Tensor


class Contestants:
    """One architecture with random weights, the same for everyone.

    Peers compute in bf16 (a rehearsal: float32) and have their inputs ready on the device. change: of the weights.
    """

    def __init__(
        self,
        choice: Choice,
        context: Context,
        change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] = dict,
    ) -> None:
        self.config, self.context, self.without = config_of(choice.model), context, choice.without
        self.weights = change(random_weights(self.config, seed=0))
        self.plain = narrowed(self.weights, self._plain_dtype, context.device)
        self._made: dict[str, Parameters] = {}
        self.engines: dict[str, Engine | str | Exception] = {
            name: made
            for precision in choice.precisions
            for name, made in self._engines(precision)
            if f"clipfast {name}" not in choice.without
        }

    @property
    def has_fp8(self) -> bool:
        """Whether ours computes in it here, and plain torch then does."""
        return any(isinstance(at, Engine) for name, at in self.engines.items() if "fp8" in name)

    @property
    def first_engine(self) -> tuple[str, Engine]:
        """Of the first precision that is served."""
        return next((name, at) for name, at in self.engines.items() if isinstance(at, Engine))

    def images(self, pixels: np.ndarray[Any, Any]) -> Entrants:
        """Contestant -> (B, E) unit rows of (B, 3, R, R) uint8 pixels, which lie on the device."""
        ours = torch.from_numpy(pixels).to(self.context.device)
        normalised = torch.from_numpy(inputs.normalised(pixels, self.config))
        normalised = normalised.to(self.context.device, self._plain_dtype)
        tower = ResNetTower if isinstance(self.config.vision, ResNetConfig) else VisionTower
        return self._entrants(encode_images, ours, tower, normalised, self._vision_libraries)

    def texts(self, texts: list[str]) -> Entrants:
        """Contestant -> (N, E) unit rows. Ours packs them from str; peers read them tokenized and padded to 77."""
        length = self.config.text.context_length
        ids = torch.from_numpy(load_tokenizer().tokenize(texts, length, truncate=True))
        ids = ids.long().to(self.context.device)
        return self._entrants(encode_texts, texts, TextTower, ids, self._text_libraries)

    def programs(
        self, programs: Sequence[Program], entrants: Entrants
    ) -> Iterator[tuple[str, float, Callable[[], Call]]]:
        """Each program's name, the seconds that compiling it takes at most, and what makes its call."""
        config = self.config.text if entrants.tower is TextTower else self.config.vision
        layers = _RESNET_LAYERS if isinstance(config, ResNetConfig) else config.layers
        for program in programs:
            if program.name not in self.without:
                make = partial(self.compiled, program, entrants)
                yield program.name, program.seconds * layers, make

    def compiled(self, program: Program, entrants: Entrants) -> Call:
        """plain torch through the compiler; a rehearsal only traces it."""
        backend = "eager" if self.context.rehearsal else "inductor"
        tower = compiled(entrants.tower, program, self.plain, self.config, backend=backend)
        return partial(tower, entrants.values)

    @cached_property
    def resizing(self) -> Engine:
        """Ours in its first precision, with images resized on the device."""
        return self._engine(self.first_engine[1].encoder, device_resize=True)

    def exact_images(self, pixels: np.ndarray[Any, Any]) -> torch.Tensor:
        """(B, E) unit rows in float64, by plain torch on the device."""
        parameters = fold(self.weights, self.config, torch.float64)
        parameters = map_tensors(parameters, lambda part: part.to(self.context.device))
        encoder = TowerEncoder(self.config, parameters, REFERENCE, self.context.device)
        with torch.inference_mode():
            parts = torch.from_numpy(pixels).to(self.context.device).split(_AT_ONCE)
            rows = torch.cat([encoder.encode_pixels(part) for part in parts])
            return F.normalize(rows, dim=-1).cpu()

    def exact_texts(self, texts: list[str]) -> torch.Tensor:
        """(N, E) unit rows in float64, by plain torch on the CPU."""
        return encode_texts(self._oracle, texts)

    @cached_property
    def _oracle(self) -> Engine:
        parameters = fold(self.weights, self.config, torch.float64)
        encoder = TowerEncoder(self.config, parameters, REFERENCE, torch.device("cpu"))
        return Engine(encoder, load_tokenizer())

    @property
    def _plain_dtype(self) -> torch.dtype:
        return torch.float32 if self.context.rehearsal else torch.bfloat16

    def _entrants(
        self,
        encode: Callable[[Engine, Any], torch.Tensor],
        ours: object,
        tower: type[VisionTower | ResNetTower | TextTower],
        values: torch.Tensor,
        libraries: dict[str, torch.nn.Module | str],
    ) -> Entrants:
        calls: Calls = {}
        for name, at in self.engines.items():
            made = partial(_refuse, at) if isinstance(at, Exception) else partial(encode, at, ours)
            calls[f"clipfast {name}"] = at if isinstance(at, str) else made
        calls["torch eager"] = partial(tower(self.plain, self.config).eval(), values)
        for name, at in libraries.items():
            calls[name] = at if isinstance(at, str) else partial(at, values)
        kept = {name: call for name, call in calls.items() if name not in self.without}
        return Entrants(kept, tower, values)

    def _engines(self, precision: str) -> Iterator[tuple[str, Engine | str | Exception]]:
        """The precision on what is chosen by itself, and on Triton's kernels alone where that is something else."""
        dtype = torch.float16 if precision == "fp16" else torch.bfloat16
        device = self.context.device
        first = select_ops(
            "triton" if self.context.rehearsal else "auto", device=device, dtype=dtype
        )
        yield precision, self._served(first, precision, dtype)
        triton_reason = unsupported_reason("triton", device=device, dtype=dtype)
        if first.name == "cuda" and triton_reason is None:
            triton = select_ops("triton", device=device, dtype=dtype)
            yield f"triton {precision}", self._served(triton, precision, dtype)

    def _served(self, ops: Ops, precision: str, dtype: torch.dtype) -> Engine | str | Exception:
        """An engine, why there can be none here, or what went wrong when it was made."""
        device = self.context.device
        try:
            if precision in CODES:
                if isinstance(self.config.vision, ResNetConfig):
                    return "convolutions have no 8-bit form"
                ops = in_8_bits(ops, device, precision)
            if precision not in self._made:
                parameters = fold(self.weights, self.config, dtype, quantise=ops.quantise)
                if precision in CODES:
                    parameters = parameters_in_8_bits(parameters, precision)
                self._made[precision] = map_tensors(parameters, lambda part: part.to(device))
            return self._engine(TowerEncoder(self.config, self._made[precision], ops, device))
        except UnsupportedError as error:
            return why(error)
        except Exception as error:  # noqa: BLE001  it is the precision's: a cell says so where it is called
            return error

    def _engine(self, encoder: Encoder, *, device_resize: bool = False) -> Engine:
        layer: DeviceLayer = layer_of(self.context.device) or HostLayer()
        return Engine(encoder, load_tokenizer(), layer=layer, device_resize=device_resize)

    @cached_property
    def _vision_libraries(self) -> dict[str, torch.nn.Module | str]:
        return self._library_towers("vision")

    @cached_property
    def _text_libraries(self) -> dict[str, torch.nn.Module | str]:
        return self._library_towers("text")

    def _library_towers(self, which: str) -> dict[str, torch.nn.Module | str]:
        return library_towers(
            which, self.weights, self.config, self._plain_dtype, self.context.device, self.without
        )


def _refuse(error: Exception) -> torch.Tensor:
    raise error


def encode_images(engine: Engine, images: object, decode: DecodeOptions = EXACT) -> torch.Tensor:
    """(N, E) unit rows."""
    return engine.encode_images(images, decode=decode, **_OURS_OF_IMAGES)


def encode_texts(engine: Engine, texts: list[str]) -> torch.Tensor:
    """(N, E) unit rows, texts cut to the context's length."""
    return engine.encode_texts(texts, **_OURS_OF_TEXTS)
