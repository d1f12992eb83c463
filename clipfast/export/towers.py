"""One tower as a whole ONNX graph: input, nodes, unit rows out; authored from folded float32 parameters, not traced."""

from __future__ import annotations

import torch
from onnx import TensorProto

from clipfast.config import ModelConfig, ResNetConfig
from clipfast.export.graph import Graph
from clipfast.export.resnet import author_resnet
from clipfast.export.text import author_text
from clipfast.export.vision import author_vision
from clipfast.parameters import Linear, Parameters, ResNet, VisionTransformer
from clipfast.runtimes.metadata import INPUT_NAMES, OUTPUT_NAMES, PixelInput, TowerName


def author_tower(
    g: Graph, tower: TowerName, parameters: Parameters, config: ModelConfig, pixels: PixelInput
) -> None:
    """Adds a whole tower to an empty graph.

    Args:
        parameters: folded, float32, on the CPU; `config`'s.
        pixels: what the image tower reads: uint8, or normalised float32.
    """
    x, proj = _embeddings(g, tower, parameters, config, pixels)
    rows = g.linear(x, proj, "proj")
    _unit_rows(g, rows, OUTPUT_NAMES[tower])
    g.output(OUTPUT_NAMES[tower], (config.embed_dim,))


def _embeddings(
    g: Graph, tower: TowerName, parameters: Parameters, config: ModelConfig, pixels: PixelInput
) -> tuple[str, Linear]:
    if tower == "text":
        row_shape = (config.text.context_length,)
        ids = g.input(INPUT_NAMES[tower], TensorProto.INT32, row_shape)
        return author_text(g, parameters.text, config.text, ids), parameters.text.proj
    size = config.vision.image_size
    element_type = TensorProto.UINT8 if pixels == "uint8" else TensorProto.FLOAT
    x = g.input(INPUT_NAMES[tower], element_type, (3, size, size))
    normalised, p = pixels == "float", parameters.vision
    if isinstance(config.vision, ResNetConfig):
        assert isinstance(p, ResNet)
        x = author_resnet(g, p, config.vision, config.preprocess, x, normalised=normalised)
        return x, p.attention_pool.out_proj
    assert isinstance(p, VisionTransformer)
    x = author_vision(g, p, config.vision, config.preprocess, x, normalised=normalised)
    return x, p.proj


def _unit_rows(g: Graph, rows: str, output: str) -> None:
    """rows / |rows| in float32; a row of zeros stays zeros, as torch's normalize does."""
    if g.dtype != torch.float32:
        rows = g.cast(rows, torch.float32, "proj/widen")
    norm = g.node("ReduceL2", [rows, g.integers(1)], "unit/norm", keepdims=1)
    floor = g.constant("unit/floor", torch.tensor(1e-12), torch.float32)
    g.node("Div", [rows, g.node("Max", [norm, floor], "unit/safe_norm")], output)
