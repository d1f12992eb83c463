"""What an exported tower says about itself: everything that `load` needs, kept inside the file or beside it.

An ONNX file holds it as `metadata_props`, strings under the prefix "clipfast."; a TensorRT plan cannot hold any, so
the same strings stand in its sidecar JSON. `clipfast.config` is the whole ModelConfig and is what is read back; the
entries that repeat parts of it are for people and for other programs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, cast, get_args

from clipfast.config import ModelConfig, ResNetConfig
from clipfast.errors import CheckpointError, ConfigurationError

TowerName = Literal["image", "text"]
ExportDtype = Literal["fp32", "fp16", "bf16", "int8"]
PixelInput = Literal["uint8", "float"]
ExportTarget = Literal["onnxruntime", "tensorrt"]
BatchRange = tuple[int, int, int]
Choice = TypeVar("Choice")

TOWERS: tuple[TowerName, ...] = get_args(TowerName)
EXPORT_DTYPES: tuple[ExportDtype, ...] = get_args(ExportDtype)
PIXEL_INPUTS: tuple[PixelInput, ...] = get_args(PixelInput)
EXPORT_TARGETS: tuple[ExportTarget, ...] = get_args(ExportTarget)

# The names that exports of CLIP commonly give their tensors.
INPUT_NAMES: dict[TowerName, str] = {"image": "pixel_values", "text": "input_ids"}
OUTPUT_NAMES: dict[TowerName, str] = {"image": "image_embeds", "text": "text_embeds"}

FORMAT_VERSION = 1
PREFIX = "clipfast."


@dataclass(frozen=True)
class TowerMetadata:
    """One exported tower.

    dtype: of the matrices; "int8" is int8 matrices between float ones (`quantisation` says how).
    pixels: "uint8" takes [0, 255] and normalises inside; "float" takes normalised float32. Always "uint8" for text.
    batch: smallest, usual and largest batch that was verified.
    fingerprint: of the weights that the tower was authored from (`Checkpoint.fingerprint`).
    target: the runtime that its form suits best.
    """

    tower: TowerName
    config: ModelConfig
    logit_scale: float
    dtype: ExportDtype
    pixels: PixelInput
    batch: BatchRange
    opset: int
    source: str
    fingerprint: str
    target: ExportTarget
    clipfast_version: str
    layer_norm_fp32: bool = True
    quantisation: str = ""

    @property
    def input_name(self) -> str:
        return INPUT_NAMES[self.tower]

    @property
    def output_name(self) -> str:
        return OUTPUT_NAMES[self.tower]

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one input: (3, R, R) pixels or (context_length,) token ids."""
        if self.tower == "text":
            return (self.config.text.context_length,)
        size = self.config.vision.image_size
        return (3, size, size)

    def require(
        self,
        *,
        source: str,
        precision: str,
        architecture: str | None,
        activation: str | None,
    ) -> None:
        """Whether these arguments of `load` are what was exported: an export cannot be changed any more.

        Raises:
            ConfigurationError: they are not.
        """
        if precision not in ("auto", self.dtype):
            raise ConfigurationError(
                f"{source} was exported as {self.dtype}, got precision={precision!r}; export it in that dtype"
            )
        if architecture is not None or activation is not None:
            raise ConfigurationError(
                f"{source} says its own architecture and activation; leave both arguments out"
            )

    def to_properties(self) -> dict[str, str]:
        """The strings to store, in a fixed order."""
        config, preprocess = self.config, self.config.preprocess
        properties = {
            "format_version": str(FORMAT_VERSION),
            "version": self.clipfast_version,
            "source": self.source,
            "weights_sha256": self.fingerprint,
            "target": self.target,
            "tower": self.tower,
            "dtype": self.dtype,
            "layer_norm_fp32": str(int(self.layer_norm_fp32)),
            "quantisation": self.quantisation,
            "opset": str(self.opset),
            "batch": ":".join(map(str, self.batch)),
            "input": self.pixels if self.tower == "image" else "int32",
            "layout": "NCHW RGB" if self.tower == "image" else "SOT ... EOT, zero padded",
            "unit_rows": "1",
            "embed_dim": str(config.embed_dim),
            "image_size": str(config.vision.image_size),
            "context_length": str(config.text.context_length),
            "mean": _numbers(preprocess.mean),
            "std": _numbers(preprocess.std),
            "resize_mode": preprocess.resize_mode,
            "interpolation": preprocess.interpolation,
            "tokenizer": "openai bpe_simple_vocab_16e6",
            "activation": self._activation(),
            "logit_scale": repr(self.logit_scale),
            "config": json.dumps(config.to_dict(), sort_keys=True, separators=(",", ":")),
        }
        return {PREFIX + name: value for name, value in properties.items()}

    def _activation(self) -> str:
        vision = self.config.vision
        if self.tower == "image":
            return "relu" if isinstance(vision, ResNetConfig) else vision.activation
        return self.config.text.activation

    @staticmethod
    def from_properties(properties: Mapping[str, str], where: Path | str) -> TowerMetadata:
        """What `to_properties` stored.

        Raises:
            CheckpointError: entries are missing or not understood: the file was not exported by clipfast.
        """
        found = own_properties(properties)
        if found.get("format_version") != str(FORMAT_VERSION):
            raise CheckpointError(
                f"{where}: expected clipfast metadata of format {FORMAT_VERSION}, got "
                f"{found.get('format_version', 'none')}; make the file with this version's `clipfast export`"
            )
        try:
            smallest, usual, largest = (int(size) for size in found["batch"].split(":"))
            return TowerMetadata(
                tower=_one_of(found["tower"], TOWERS),
                config=ModelConfig.from_dict(json.loads(found["config"])),
                logit_scale=float(found["logit_scale"]),
                dtype=_one_of(found["dtype"], EXPORT_DTYPES),
                pixels="float" if found["input"] == "float" else "uint8",
                batch=(smallest, usual, largest),
                opset=int(found["opset"]),
                source=found["source"],
                fingerprint=found["weights_sha256"],
                target=_one_of(found["target"], EXPORT_TARGETS),
                clipfast_version=found["version"],
                layer_norm_fp32=found["layer_norm_fp32"] == "1",
                quantisation=found["quantisation"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{where}: its clipfast metadata is damaged ({type(error).__name__}: {error}); export it again"
            ) from error


def own_properties(properties: Mapping[str, str]) -> dict[str, str]:
    """Of a file's properties those that clipfast wrote, without their prefix."""
    return {
        name.removeprefix(PREFIX): value
        for name, value in properties.items()
        if name.startswith(PREFIX)
    }


def _numbers(values: tuple[float, ...]) -> str:
    return ",".join(repr(value) for value in values)


def _one_of(value: str, choices: tuple[Choice, ...]) -> Choice:
    if value not in choices:
        raise ValueError(f"{value!r} is not one of {choices}")
    return cast(Choice, value)
