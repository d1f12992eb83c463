"""CLIP's modified ResNet as ONNX nodes, pixels to image embeddings: the wiring of `clipfast.model.resnet`."""

from __future__ import annotations

import torch

from clipfast.config import PreprocessConfig, ResNetConfig
from clipfast.export.graph import Graph
from clipfast.export.transformer import attend
from clipfast.parameters import AttentionPool, Bottleneck, ResNet


def author_resnet(
    g: Graph,
    p: ResNet,
    config: ResNetConfig,
    preprocess: PreprocessConfig,
    pixels: str,
    *,
    normalised: bool,
) -> str:
    """Image embeddings before the output projection, (batch, 1, F).

    Args:
        pixels: (batch, 3, R, R) uint8, or float32 and `normalised` already.
    """
    x = pixels if normalised else _normalise(g, pixels, preprocess)
    if g.dtype != torch.float32:
        x = g.cast(x, g.dtype, "pixels/narrow")
    # The stem pads with zeros after normalisation, so the normalisation is not folded into its convolution.
    stem = p.stem
    for i, convolution in enumerate((stem.float_conv1, stem.conv2, stem.conv3), start=1):
        x = g.convolution(x, convolution, f"conv{i}", stride=2 if i == 1 else 1, padding=1)
        x = g.activate(x, "relu", f"conv{i}")
    x = _average_pool(g, x, 2, "stem")
    for stage, bottlenecks in enumerate(p.stages, start=1):
        for i, bottleneck in enumerate(bottlenecks):
            x = _bottleneck(g, x, bottleneck, f"layer{stage}.{i}")
    return _attention_pool(g, x, p.attention_pool, config)


def _normalise(g: Graph, pixels: str, preprocess: PreprocessConfig) -> str:
    """(pixels - 255 mean) / (255 std) in float32."""
    mean, std = (
        torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1)
        for values in (preprocess.mean, preprocess.std)
    )
    x = g.cast(pixels, torch.float32, "pixels")
    shift = g.constant("pixels/mean", 255 * mean, torch.float32)
    scale = g.constant("pixels/scale", 1 / (255 * std), torch.float32)
    x = g.node("Sub", [x, shift], "pixels/centred")
    return g.node("Mul", [x, scale], "pixels/normalised")


def _average_pool(g: Graph, x: str, stride: int, name: str) -> str:
    size = [stride, stride]
    return g.node("AveragePool", [x], f"{name}/avgpool", kernel_shape=size, strides=size)


def _bottleneck(g: Graph, x: str, p: Bottleneck, name: str) -> str:
    y = g.activate(g.convolution(x, p.conv1, f"{name}/conv1"), "relu", f"{name}/conv1")
    y = g.activate(g.convolution(y, p.conv2, f"{name}/conv2", padding=1), "relu", f"{name}/conv2")
    if p.stride > 1:
        y = _average_pool(g, y, p.stride, name)
        x = _average_pool(g, x, p.stride, f"{name}/downsample")
    if p.downsample is not None:
        x = g.convolution(x, p.downsample, f"{name}/downsample")
    y = g.convolution(y, p.conv3, f"{name}/conv3")
    return g.activate(g.add(y, x, f"{name}/residual"), "relu", name)


def _attention_pool(g: Graph, x: str, p: AttentionPool, config: ResNetConfig) -> str:
    """One query (the mean token) over the mean and all cells."""
    cells, width, name = config.grid**2, config.feature_width, "attnpool"
    x = g.reshape(x, (0, width, cells), f"{name}/flat")
    x = g.transpose(x, (0, 2, 1), f"{name}/cells")
    if g.dtype != torch.float32:
        x = g.cast(x, torch.float32, f"{name}/widen")
    mean = g.node("ReduceMean", [x, g.integers(1)], f"{name}/mean", keepdims=1)
    x = g.node("Concat", [mean, x], f"{name}/tokens", axis=1)
    positions = g.constant(f"{name}.positional_embedding", p.positions, torch.float32)
    x = g.add(x, positions, f"{name}/positions")
    if g.dtype != torch.float32:
        x = g.cast(x, g.dtype, f"{name}/narrow")
    first = g.constant("mean_index", torch.tensor(0), torch.int64)
    row = g.node("Gather", [x, first], f"{name}/mean_token", axis=1)
    x = g.reshape(x, (-1, width), f"{name}/rows")
    q = g.linear(row, p.query, f"{name}/query")
    k = g.matmul(x, p.kv.weight[:width], f"{name}/key")
    v = g.matmul(x, p.kv.weight[width:], f"{name}/value")
    return attend(g, (q, k, v), config.heads, (1, cells + 1), width, name)
