"""What is exported and how, and the report of what was written."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from clipfast.errors import ConfigurationError
from clipfast.export.parity import Parity
from clipfast.runtimes.metadata import (
    EXPORT_DTYPES,
    EXPORT_TARGETS,
    PIXEL_INPUTS,
    TOWERS,
    BatchRange,
    ExportDtype,
    ExportTarget,
    PixelInput,
    TowerName,
)

TowerChoice = Literal["image", "text", "both"]
_GRAPH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class ExportOptions:
    """What is exported and how; see `export_onnx`."""

    tower: TowerChoice = "both"
    dtype: ExportDtype = "fp32"
    pixels: PixelInput = "uint8"
    batch: BatchRange = (1, 8, 64)
    target: ExportTarget = "onnxruntime"
    layer_norm_fp32: bool = True

    def __post_init__(self) -> None:
        for name, choices in (
            ("tower", (*TOWERS, "both")),
            ("dtype", EXPORT_DTYPES),
            ("pixels", PIXEL_INPUTS),
            ("target", EXPORT_TARGETS),
        ):
            if getattr(self, name) not in choices:
                shown = "input" if name == "pixels" else name
                raise ConfigurationError(
                    f"{shown}={getattr(self, name)!r}: expected one of {', '.join(choices)}"
                )
        if len(self.batch) != 3 or not 1 <= self.batch[0] <= self.batch[1] <= self.batch[2]:
            raise ConfigurationError(
                f"batch={self.batch}: expected three sizes, 1 <= smallest <= usual <= largest"
            )

    @property
    def towers(self) -> tuple[TowerName, ...]:
        return TOWERS if self.tower == "both" else (self.tower,)

    @property
    def graph_dtype(self) -> torch.dtype:
        if self.dtype == "int8":
            return torch.float16 if self.target == "tensorrt" else torch.float32
        return _GRAPH_DTYPES[self.dtype]


@dataclass(frozen=True)
class TowerExport:
    """One written tower. files: names in the export's directory, the graph first."""

    tower: TowerName
    files: tuple[str, ...]
    bytes: int
    nodes: int
    opset: int
    seconds: float
    parity: Parity


@dataclass(frozen=True)
class ExportReport:
    """What `export_onnx` wrote, as it also stands in export.json."""

    directory: str
    model: str
    source: str
    options: ExportOptions
    towers: tuple[TowerExport, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {
            "towers": [asdict(t) | {"parity": t.parity.to_dict()} for t in self.towers]
        }
