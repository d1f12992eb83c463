"""Does an export compute what its model computes? Cosines of its rows to the float32 reference towers' rows.

The gate is the smallest cosine over all batches that were run: the smallest, usual and largest of the range and an
odd one, so that a shape baked into the graph shows. Inputs are images and prompts, not noise: noise has no outliers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from clipfast.backends.reference import REFERENCE
from clipfast.config import ModelConfig
from clipfast.encoder import TowerEncoder
from clipfast.engine import Engine
from clipfast.errors import ParityError
from clipfast.export.samples import Samples
from clipfast.inputs import load_tokenizer
from clipfast.ops import Ops
from clipfast.parameters import Parameters
from clipfast.runtimes.metadata import BatchRange, ExportDtype, TowerName

# The smallest cosine that an export may have.
GATES: dict[ExportDtype, float] = {"fp32": 0.99999, "fp16": 0.999, "bf16": 0.998, "int8": 0.99}


@dataclass(frozen=True)
class BatchParity:
    """One batch size. max_abs: the largest difference of two elements of unit rows."""

    batch: int
    cosine_min: float
    cosine_mean: float
    max_abs: float
    non_finite: int


@dataclass(frozen=True)
class Parity:
    """One tower.

    neighbours: the share of samples whose nearest other sample is the reference's.
    centred: the smallest cosine after the mean reference row is subtracted from both: what all embeddings share says
        nothing about them, and can hide in a high cosine how much of the rest is lost.
    """

    tower: TowerName
    dtype: ExportDtype
    gate: float
    compared: str
    samples: str
    count: int
    batches: tuple[BatchParity, ...]
    neighbours: float
    centred: float

    @property
    def cosine_min(self) -> float:
        return min(entry.cosine_min for entry in self.batches)

    @property
    def passed(self) -> bool:
        return self.cosine_min >= self.gate and not any(b.non_finite for b in self.batches)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"cosine_min": self.cosine_min, "passed": self.passed}

    def require(self, outcome: str) -> None:
        """Raises ParityError when the gate is not met, naming the batch; `outcome` says what happened to the files."""
        if self.passed:
            return
        worst = min(self.batches, key=lambda entry: (not entry.non_finite, entry.cosine_min))
        advice = {
            "fp32": "this is an error of clipfast: please report it",
            "fp16": "try dtype bf16, or fp32",
            "bf16": "try dtype fp32",
            "int8": "calibrate with images and texts like those you will encode, or use fp16",
        }
        raise ParityError(
            f"{self.tower} tower, {self.dtype}, batch {worst.batch}: cosine {worst.cosine_min:.6f} "
            f"({worst.non_finite} non-finite elements), the gate is {self.gate}, {self.compared}, on {self.samples}; "
            f"{outcome}; {advice[self.dtype]}"
        )


def batches_to_check(batch: BatchRange) -> list[int]:
    """The ends of the range, the usual batch and an odd one, ascending."""
    smallest, usual, largest = batch
    odd = min(max(usual - 1 | 1, smallest), largest)
    return sorted({smallest, usual, largest, odd})


def measure(
    run: Callable[[torch.Tensor], torch.Tensor],
    rows: torch.Tensor,
    expected: torch.Tensor,
    batches: list[int],
) -> tuple[tuple[BatchParity, ...], float, float]:
    """Every batch size against the expected rows; the nearest neighbours that agree; the smallest centred cosine.

    Args:
        run: (B, ...) rows -> (B, E) unit rows.
        rows, expected: (N, ...) inputs and (N, E) their unit rows; repeated in turn where a batch is larger.
    """
    results, best = [], torch.empty_like(expected)
    for batch in batches:
        starts = range(0, len(rows), batch) if batch == max(batches) else (0,)
        found = []
        for start in starts:
            index = torch.arange(start, start + batch) % len(rows)
            got = run(rows[index]).float().cpu()
            best[index] = got
            found.append(_compare(batch, got, expected[index]))
        results.append(min(found, key=lambda entry: (not entry.non_finite, entry.cosine_min)))
    return tuple(results), _neighbour_agreement(best, expected), _centred_cosine(best, expected)


def _compare(batch: int, got: torch.Tensor, expected: torch.Tensor) -> BatchParity:
    non_finite = int((~torch.isfinite(got)).sum())
    cosines = torch.cosine_similarity(torch.nan_to_num(got).double(), expected.double())
    difference = (torch.nan_to_num(got) - expected).abs().max()
    return BatchParity(
        batch, float(cosines.min()), float(cosines.mean()), float(difference), non_finite
    )


def _neighbour_agreement(got: torch.Tensor, expected: torch.Tensor) -> float:
    def nearest(rows: torch.Tensor) -> torch.Tensor:
        return (torch.nan_to_num(rows) @ torch.nan_to_num(rows).T).fill_diagonal_(-2).argmax(dim=1)

    return float((nearest(got) == nearest(expected)).double().mean())


def _centred_cosine(got: torch.Tensor, expected: torch.Tensor) -> float:
    shared = expected.mean(dim=0)
    return float(torch.cosine_similarity(torch.nan_to_num(got) - shared, expected - shared).min())


def reference_rows(
    tower: TowerName,
    parameters: Parameters,
    config: ModelConfig,
    samples: Samples,
    ops: Ops = REFERENCE,
) -> torch.Tensor:
    """The samples through our own towers in plain torch: (N, E) float32 unit rows."""
    encoder = TowerEncoder(config, parameters, ops, torch.device("cpu"))
    engine = Engine(encoder, load_tokenizer())
    if tower == "image":
        return engine.encode_images(
            list(samples.images),
            batch_size=8,
            normalize=True,
            errors="raise",
            progress=False,
            num_workers=None,
            output_device=None,
        )
    return engine.encode_texts(
        list(samples.texts),
        batch_size=None,
        normalize=True,
        truncate=True,
        share_prefixes=False,
        progress=False,
        output_device=None,
    )
