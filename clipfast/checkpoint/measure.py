"""What the tensors tell: every size of both towers, and the shape that each canonical tensor must then have.

Sizes are a flat dictionary: embed_dim; vision.{image_size, patch_size, width, layers, mlp_width} of a ViT or
vision.{image_size, width, blocks} of a ResNet; text.{context_length, vocab_size, width, layers, mlp_width}.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from clipfast.checkpoint.declaration import CLIP_VOCABULARY
from clipfast.checkpoint.families import unsupported_family
from clipfast.checkpoint.layouts import summary
from clipfast.config import ModelConfig, ResNetConfig, VisionTransformerConfig
from clipfast.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]
Sizes = dict[str, Any]


def measure(shapes: Shapes) -> Sizes:
    """Every size that the canonical tensors tell.

    Raises: CheckpointError, without a file name, when a tensor that tells a size is missing or misshapen, or the
        vocabulary is not CLIP's.
    """
    if "visual.layer1.0.conv1.weight" in shapes or "visual.attnpool.positional_embedding" in shapes:
        vision = _measure_resnet(shapes)
    else:
        vision = _measure_vision_transformer(shapes)
    vocabulary, width = _dimensions(shapes, "token_embedding.weight", 2)
    if vocabulary != CLIP_VOCABULARY:
        raise unsupported_family(
            f"a text tower with a vocabulary of {vocabulary} (CLIPA, MetaCLIP 2, multilingual, ...)",
            f"CLIP's byte-pair vocabulary has {CLIP_VOCABULARY}",
        )
    return vision | {
        "embed_dim": _dimensions(shapes, "text_projection", 2)[1],
        "text.context_length": _dimensions(shapes, "positional_embedding", 2)[0],
        "text.vocab_size": vocabulary,
        "text.width": width,
        "text.layers": _count(shapes, r"transformer\.resblocks\.(\d+)\."),
        "text.mlp_width": _dimensions(shapes, "transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
    }


def _measure_vision_transformer(shapes: Shapes) -> Sizes:
    width, _, _, patch = _dimensions(shapes, "visual.conv1.weight", 4)
    tokens = _dimensions(shapes, "visual.positional_embedding", 2)[0]
    return {
        "vision.image_size": _side(tokens - 1, "visual.positional_embedding") * patch,
        "vision.patch_size": patch,
        "vision.width": width,
        "vision.layers": _count(shapes, r"visual\.transformer\.resblocks\.(\d+)\."),
        "vision.mlp_width": _dimensions(
            shapes, "visual.transformer.resblocks.0.mlp.c_fc.weight", 2
        )[0],
    }


def _measure_resnet(shapes: Shapes) -> Sizes:
    tokens = _dimensions(shapes, "visual.attnpool.positional_embedding", 2)[0]
    return {
        "vision.image_size": _side(tokens - 1, "visual.attnpool.positional_embedding") * 32,
        "vision.width": _dimensions(shapes, "visual.layer1.0.conv1.weight", 4)[0],
        "vision.blocks": tuple(
            _count(shapes, rf"visual\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4)
        ),
    }


def _dimensions(shapes: Shapes, name: str, count: int) -> tuple[int, ...]:
    shape = shapes.get(name)
    if shape is None:
        raise CheckpointError(f"missing {name}")
    if len(shape) != count or 0 in shape:
        raise CheckpointError(f"mismatched {name}: shape {shape}, expected {count} dimensions")
    return shape


def _side(patches: int, name: str) -> int:
    side = math.isqrt(max(patches, 0))
    if side < 1 or side * side != patches:
        raise CheckpointError(
            f"mismatched {name}: {patches + 1} rows, expected a square number plus one"
        )
    return side


def _count(shapes: Shapes, pattern: str) -> int:
    matches = (re.match(pattern, name) for name in shapes)
    return 1 + max((int(match[1]) for match in matches if match and len(match[1]) <= 3), default=-1)


def check_shapes(shapes: Shapes, config: ModelConfig) -> None:
    """Every canonical tensor of the model is there, with its shape, and nothing else.

    Raises: CheckpointError, without a file name, listing what is missing, unexpected and mismatched.
    """
    expected = dict(expected_shapes(config))
    problems = [f"missing {name} {shape}" for name, shape in expected.items() if name not in shapes]
    problems += [
        f"unexpected {name} {shape}" for name, shape in shapes.items() if name not in expected
    ]
    problems += [
        f"mismatched {name}: shape {shapes[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    if problems:
        raise CheckpointError(summary(problems))


def expected_shapes(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every canonical tensor of a model, with its shape."""
    text, embed_dim = config.text, config.embed_dim
    if isinstance(config.vision, ResNetConfig):
        yield from _resnet(config.vision, embed_dim)
    else:
        yield from _vision_transformer(config.vision, embed_dim)
    yield "token_embedding.weight", (text.vocab_size, text.width)
    yield "positional_embedding", (text.context_length, text.width)
    yield from _resblocks("", text.width, text.layers, text.mlp_width)
    yield from _affine("ln_final", text.width)
    yield "text_projection", (text.width, embed_dim)
    yield "logit_scale", ()


def _affine(prefix: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{prefix}.weight", (width,)
    yield f"{prefix}.bias", (width,)


def _linear(
    prefix: str, out: int, width: int, separator: str = "."
) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{prefix}{separator}weight", (out, width)
    yield f"{prefix}{separator}bias", (out,)


def _resblocks(
    prefix: str, width: int, layers: int, mlp_width: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    for layer in range(layers):
        block = f"{prefix}transformer.resblocks.{layer}"
        yield from _affine(f"{block}.ln_1", width)
        yield from _linear(f"{block}.attn.in_proj", 3 * width, width, "_")
        yield from _linear(f"{block}.attn.out_proj", width, width)
        yield from _affine(f"{block}.ln_2", width)
        yield from _linear(f"{block}.mlp.c_fc", mlp_width, width)
        yield from _linear(f"{block}.mlp.c_proj", width, mlp_width)


def _vision_transformer(
    config: VisionTransformerConfig, embed_dim: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, patch = config.width, config.patch_size
    yield "visual.class_embedding", (width,)
    yield "visual.positional_embedding", (config.tokens, width)
    yield "visual.conv1.weight", (width, 3, patch, patch)
    yield from _affine("visual.ln_pre", width)
    yield from _resblocks("visual.", width, config.layers, config.mlp_width)
    yield from _affine("visual.ln_post", width)
    yield "visual.proj", (width, embed_dim)


def _resnet(config: ResNetConfig, embed_dim: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    half, width = config.width // 2, config.width
    for index, (channels, out) in enumerate(((3, half), (half, half), (half, width)), 1):
        yield from _convolution(f"visual.conv{index}", f"visual.bn{index}", out, channels, 3)
    channels = width
    for stage, blocks in enumerate(config.blocks):
        planes = width * 2**stage
        for index in range(blocks):
            block = f"visual.layer{stage + 1}.{index}"
            sizes = ((channels, planes, 1), (planes, planes, 3), (planes, 4 * planes, 1))
            for i, (inputs, out, kernel) in enumerate(sizes, 1):
                yield from _convolution(f"{block}.conv{i}", f"{block}.bn{i}", out, inputs, kernel)
            if index == 0:
                downsample = f"{block}.downsample"
                yield from _convolution(
                    f"{downsample}.0", f"{downsample}.1", 4 * planes, channels, 1
                )
            channels = 4 * planes
    pool = "visual.attnpool"
    yield f"{pool}.positional_embedding", (config.grid**2 + 1, channels)
    for letter, out in (("q", channels), ("k", channels), ("v", channels), ("c", embed_dim)):
        yield from _linear(f"{pool}.{letter}_proj", out, channels)


def _convolution(
    conv: str, norm: str, out: int, channels: int, kernel: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{conv}.weight", (out, channels, kernel, kernel)
    for name in ("weight", "bias", "running_mean", "running_var"):
        yield f"{norm}.{name}", (out,)
