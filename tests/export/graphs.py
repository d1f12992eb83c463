"""Exported graphs of random models, for tests: authored and written, not yet verified."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from clipfast.checkpoint import Checkpoint
from clipfast.checkpoint.folds import fold
from clipfast.config import ModelConfig, ResNetConfig
from clipfast.export.graph import Graph
from clipfast.export.onnx_file import opset_for, write_onnx
from clipfast.export.towers import author_tower
from clipfast.parameters import Parameters
from clipfast.runtimes.metadata import (
    ExportDtype,
    ExportTarget,
    PixelInput,
    TowerMetadata,
    TowerName,
)
from tests.weights import random_weights, reduced

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def narrow(config: ModelConfig) -> ModelConfig:
    """The family's real width, heads and patch size; two blocks, a few tokens, a narrow MLP, a small vocabulary."""
    config = reduced(config, layers=2, context_length=16)
    vision, width = config.vision, config.text.width
    if isinstance(vision, ResNetConfig):
        vision = replace(vision, image_size=64)
    else:
        vision = replace(vision, image_size=3 * vision.patch_size, mlp_width=vision.width)
    text = replace(config.text, vocab_size=512, eot_id=511, mlp_width=width)
    return replace(config, vision=vision, text=text)


def random_checkpoint(config: ModelConfig) -> Checkpoint:
    return Checkpoint(config, random_weights(config), "random")


def random_parameters(config: ModelConfig) -> Parameters:
    return fold(random_weights(config), config, torch.float32)


def describe(
    config: ModelConfig, tower: TowerName, dtype: ExportDtype, target: ExportTarget
) -> TowerMetadata:
    opset = opset_for(DTYPES[dtype])
    batch = (1, 8, 32)
    return TowerMetadata(
        tower, config, 100.0, dtype, "uint8", batch, opset, "random", "0" * 64, target, "0"
    )


def write_tower(
    folder: Path,
    config: ModelConfig,
    parameters: Parameters,
    tower: TowerName,
    dtype: ExportDtype = "fp32",
    target: ExportTarget = "onnxruntime",
    *,
    pixels: PixelInput = "uint8",
    layer_norm_fp32: bool = True,
) -> Path:
    """One tower's ONNX file."""
    graph = Graph(
        tower,
        DTYPES[dtype],
        layer_norm_fp32=layer_norm_fp32,
        whole_attention=target == "tensorrt",
    )
    author_tower(graph, tower, parameters, config, pixels)
    path = folder / f"{tower}.onnx"
    described = replace(describe(config, tower, dtype, target), pixels=pixels)
    write_onnx(graph, path, described.to_properties(), "0")
    return path


def tokens(config: ModelConfig, count: int) -> torch.Tensor:
    """(count, context_length) int32: texts of every length from 1 to the context, EOT last, then zeros."""
    length, eot = config.text.context_length, config.text.eot_id
    ids = torch.randint(1, eot, (count, length), generator=torch.Generator().manual_seed(3))
    for row in range(count):
        end = (row * 5) % length
        ids[row, end] = eot
        ids[row, end + 1 :] = 0
    return ids.int()


def images(config: ModelConfig, count: int) -> torch.Tensor:
    """(count, 3, R, R) uint8."""
    size = config.vision.image_size
    generator = torch.Generator().manual_seed(4)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
