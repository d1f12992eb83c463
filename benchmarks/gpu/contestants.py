"""Who takes part in a cell: ours in each precision, plain torch eager, compiled and in fp8, and the libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from benchmarks import work as inputs
from benchmarks.gpu.context import Context
from benchmarks.gpu.libraries import library_towers
from benchmarks.gpu.towers import ResNetTower, ScaledLayer, TextTower, VisionTower, narrowed
from clipfast.backends import select_ops
from clipfast.backends.eight_bit import CODES, in_8_bits, parameters_in_8_bits
from clipfast.backends.eight_bit import unsupported_reason as not_in_8_bits
from clipfast.backends.reference import REFERENCE
from clipfast.checkpoint.folds import fold
from clipfast.config import ModelConfig, ResNetConfig
from clipfast.device import DeviceLayer, HostLayer
from clipfast.encoder import Encoder, TowerEncoder
from clipfast.engine import Engine
from clipfast.inputs import EXACT, DecodeOptions, load_tokenizer
from clipfast.parameters import map_tensors
from clipfast.placement import layer_of
from tests.random_weights import random_weights

Call = Callable[[], torch.Tensor]
# A contestant, or a sentence that says why it takes no part.
Calls = dict[str, Call | str]
SECONDS_OF_A_COMPILATION = 75
_OURS_OF_IMAGES: dict[str, Any] = {
    "batch_size": None, "normalize": True, "errors": "raise",
    "progress": False, "num_workers": None, "output_device": None,
}  # fmt: skip
_OURS_OF_TEXTS: dict[str, Any] = {
    "batch_size": None, "normalize": True, "truncate": True,
    "share_prefixes": None, "progress": False, "output_device": None,
}  # fmt: skip


class Contestants:
    """One architecture with random weights, the same for everyone.

    Peers compute in bf16 (a rehearsal: float32) and have their inputs ready on the device.
    """

    def __init__(self, config: ModelConfig, context: Context) -> None:
        self.config, self.context = config, context
        self.weights = random_weights(config, seed=0)
        self.plain = narrowed(self.weights, self._plain_dtype, context.device)
        self.engines = dict(self._engines())
        self._has_resnet = isinstance(config.vision, ResNetConfig)

    def images(self, pixels: np.ndarray[Any, Any], *, compiled: bool, with_graphs: bool) -> Calls:
        """Contestant -> (B, E) unit rows of (B, 3, R, R) uint8 pixels, which lie on the device."""
        ours = torch.from_numpy(pixels).to(self.context.device)
        normalised = torch.from_numpy(inputs.normalised(pixels, self.config))
        normalised = normalised.to(self.context.device, self._plain_dtype)
        calls: Calls = {
            f"clipfast {name}": partial(encode_images, engine, ours)
            for name, engine in self.engines.items()
        }
        tower = ResNetTower if self._has_resnet else VisionTower
        calls |= self._torch(tower, normalised, compiled=compiled, with_graphs=with_graphs)
        return calls | self._libraries("vision", normalised)

    def texts(self, texts: list[str]) -> Calls:
        """Contestant -> (N, E) unit rows. Ours packs them from str; peers read them tokenized and padded to 77."""
        length = self.config.text.context_length
        ids = torch.from_numpy(load_tokenizer().tokenize(texts, length, truncate=True))
        ids = ids.long().to(self.context.device)
        calls: Calls = {
            f"clipfast {name}": partial(encode_texts, engine, texts)
            for name, engine in self.engines.items()
        }
        calls |= self._torch(TextTower, ids, compiled=True, with_graphs=False)
        return calls | self._libraries("text", ids)

    @cached_property
    def resizing(self) -> Engine:
        """Ours in its first precision, with images resized on the device."""
        encoder = next(iter(self.engines.values())).encoder
        return self._engine(encoder, device_resize=True)

    @cached_property
    def oracle(self) -> Engine:
        """float64, on the CPU."""
        parameters = fold(self.weights, self.config, torch.float64)
        encoder = TowerEncoder(self.config, parameters, REFERENCE, torch.device("cpu"))
        return Engine(encoder, load_tokenizer())

    @property
    def _plain_dtype(self) -> torch.dtype:
        return torch.float32 if self.context.rehearsal else torch.bfloat16

    def _engines(self) -> Iterator[tuple[str, Engine]]:
        device = self.context.device
        names = ("fp16",) if self.context.rehearsal else ("bf16", "fp16", "fp8", "int8")
        for name in names:
            if name in CODES and isinstance(self.config.vision, ResNetConfig):
                continue  # its convolutions have no 8-bit form
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
            yield name, self._engine(TowerEncoder(self.config, moved, ops, device))

    def _engine(self, encoder: Encoder, *, device_resize: bool = False) -> Engine:
        layer: DeviceLayer = layer_of(self.context.device) or HostLayer()
        return Engine(encoder, load_tokenizer(), layer=layer, device_resize=device_resize)

    def _torch(
        self,
        tower: type[VisionTower | ResNetTower | TextTower],
        values: torch.Tensor,
        *,
        compiled: bool,
        with_graphs: bool,
    ) -> Calls:
        """torch eager; compiled, where there is time for it; in fp8, where the device has it."""
        module = tower(self.plain, self.config).eval()
        programs: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"torch eager": module}
        if compiled and not self.context.rehearsal:
            if self._in_time_to_compile(1):
                programs["torch.compile"] = torch.compile(module, dynamic=False)
            if "fp8" in self.engines and tower is not ResNetTower and self._in_time_to_compile(1):
                scaled = tower(self.plain, self.config, ScaledLayer).eval()
                programs["torch.compile fp8"] = torch.compile(scaled, dynamic=False)
            if with_graphs and self._in_time_to_compile(2):
                programs["torch.compile max-autotune"] = torch.compile(
                    module, dynamic=False, mode="max-autotune"
                )
        return {name: partial(program, values) for name, program in programs.items()}

    def _in_time_to_compile(self, programs: int) -> bool:
        return self.context.seconds_left() > programs * SECONDS_OF_A_COMPILATION

    def _libraries(self, which: str, values: torch.Tensor) -> Calls:
        towers = self._vision_libraries if which == "vision" else self._text_libraries
        return {
            name: tower if isinstance(tower, str) else partial(tower, values)
            for name, tower in towers.items()
        }

    @cached_property
    def _vision_libraries(self) -> dict[str, torch.nn.Module | str]:
        return self._library_towers("vision")

    @cached_property
    def _text_libraries(self) -> dict[str, torch.nn.Module | str]:
        return self._library_towers("text")

    def _library_towers(self, which: str) -> dict[str, torch.nn.Module | str]:
        return library_towers(
            which, self.weights, self.config, self._plain_dtype, self.context.device
        )


def encode_images(engine: Engine, images: object, decode: DecodeOptions = EXACT) -> torch.Tensor:
    """(N, E) unit rows."""
    return engine.encode_images(images, decode=decode, **_OURS_OF_IMAGES)


def encode_texts(engine: Engine, texts: list[str]) -> torch.Tensor:
    """(N, E) unit rows, texts cut to the context's length."""
    return engine.encode_texts(texts, **_OURS_OF_TEXTS)
