"""Random CLIP weights under canonical (OpenAI) names, for any ModelConfig.

Scaled like trained ones: matrices width^-0.5, LayerNorm gains 1 +- 0.1, biases that are not zero;
residual branches shrink with depth, so that towers stay in the range of real models at any depth.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace

import torch

from clipfast.config import ModelConfig, ResNetConfig, TextConfig, VisionTransformerConfig

Weights = dict[str, torch.Tensor]


def reduced(
    config: ModelConfig, layers: int = 2, *, context_length: int | None = None
) -> ModelConfig:
    """The same widths and heads, `layers` blocks a transformer (a ResNet: one block a stage)."""
    vision = (
        replace(config.vision, blocks=(1, 1, 1, 1))
        if isinstance(config.vision, ResNetConfig)
        else replace(config.vision, layers=layers)
    )
    context = context_length or config.text.context_length
    text = replace(config.text, layers=layers, context_length=context)
    return replace(config, vision=vision, text=text)


def tiny(activation: str = "quick_gelu", *, layers: int = 2) -> ModelConfig:
    """A ViT of width 128, a text tower of width 64: some 14 MB, nearly all of it the vocabulary."""
    vision = VisionTransformerConfig(64, 16, 128, layers, 2, 512, activation)  # type: ignore[arg-type]
    text = TextConfig(77, 49408, 64, layers, 1, 256, activation)  # type: ignore[arg-type]
    return ModelConfig("tiny", 32, vision, text)


def tiny_resnet() -> ModelConfig:
    """A modified ResNet of width 8 (features 256), one block a stage, with the text tower of `tiny`."""
    return replace(
        tiny(), name="tiny-resnet", vision=ResNetConfig(64, (1, 1, 1, 1), 8, 4), embed_dim=32
    )


class _Random:
    """Tensors drawn in order from one seed."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, std: float, mean: float = 0.0) -> torch.Tensor:
        return torch.empty(*shape).normal_(mean, std, generator=self._generator)

    def norm(self, prefix: str, width: int) -> Iterator[tuple[str, torch.Tensor]]:
        yield f"{prefix}.weight", self.normal(width, mean=1.0, std=0.1)
        yield f"{prefix}.bias", self.normal(width, std=0.05)

    def linear(
        self, prefix: str, out: int, width: int, *, separator: str = ".", gain: float = 1.0
    ) -> Iterator[tuple[str, torch.Tensor]]:
        yield f"{prefix}{separator}weight", self.normal(out, width, std=gain * width**-0.5)
        yield f"{prefix}{separator}bias", self.normal(out, std=0.02)


def _transformer(
    random: _Random, prefix: str, width: int, layers: int, mlp_width: int
) -> Iterator[tuple[str, torch.Tensor]]:
    gain = (2 * layers) ** -0.5  # keeps the residual stream near unit variance at any depth
    for layer in range(layers):
        block = f"{prefix}transformer.resblocks.{layer}"
        yield from random.norm(f"{block}.ln_1", width)
        yield from random.linear(f"{block}.attn.in_proj", 3 * width, width, separator="_")
        yield from random.linear(f"{block}.attn.out_proj", width, width, gain=gain)
        yield from random.norm(f"{block}.ln_2", width)
        yield from random.linear(f"{block}.mlp.c_fc", mlp_width, width)
        yield from random.linear(f"{block}.mlp.c_proj", width, mlp_width, gain=gain)


def _vision_transformer(
    random: _Random, config: VisionTransformerConfig, embed_dim: int
) -> Iterator[tuple[str, torch.Tensor]]:
    width, patch = config.width, config.patch_size
    yield "visual.class_embedding", random.normal(width, std=width**-0.5)
    yield "visual.positional_embedding", random.normal(config.tokens, width, std=width**-0.5)
    std = (3 * patch * patch) ** -0.5
    yield "visual.conv1.weight", random.normal(width, 3, patch, patch, std=std)
    yield from random.norm("visual.ln_pre", width)
    yield from _transformer(random, "visual.", width, config.layers, config.mlp_width)
    yield from random.norm("visual.ln_post", width)
    yield "visual.proj", random.normal(width, embed_dim, std=width**-0.5)


def _convolution(
    random: _Random, conv: str, norm: str, out: int, width: int, kernel: int, gain: float = 1.0
) -> Iterator[tuple[str, torch.Tensor]]:
    std = math.sqrt(2 / (width * kernel * kernel))
    yield f"{conv}.weight", random.normal(out, width, kernel, kernel, std=std)
    yield f"{norm}.weight", random.normal(out, mean=gain, std=0.1 * gain)
    yield f"{norm}.bias", random.normal(out, std=0.05)
    yield f"{norm}.running_mean", random.normal(out, std=0.1)
    yield f"{norm}.running_var", 0.8 + random.normal(out, std=0.2).abs()
    yield f"{norm}.num_batches_tracked", torch.tensor(1000)


def _resnet(
    random: _Random, config: ResNetConfig, embed_dim: int
) -> Iterator[tuple[str, torch.Tensor]]:
    width = config.width
    stem = ((3, width // 2), (width // 2, width // 2), (width // 2, width))
    for index, (channels, out) in enumerate(stem, 1):
        conv, norm = f"visual.conv{index}", f"visual.bn{index}"
        yield from _convolution(random, conv, norm, out, channels, 3)
    channels = width
    for stage, blocks in enumerate(config.blocks):
        planes = width * 2**stage
        for index in range(blocks):
            block = f"visual.layer{stage + 1}.{index}"
            sizes = ((channels, planes, 1), (planes, planes, 3), (planes, 4 * planes, 1))
            for i, (inputs, out, kernel) in enumerate(sizes, 1):
                gain = 0.3 if i == 3 else 1.0  # the sum over residual blocks stays in range
                conv, norm = f"{block}.conv{i}", f"{block}.bn{i}"
                yield from _convolution(random, conv, norm, out, inputs, kernel, gain)
            if index == 0:
                conv, norm = f"{block}.downsample.0", f"{block}.downsample.1"
                yield from _convolution(random, conv, norm, 4 * planes, channels, 1)
            channels = 4 * planes
    pool, tokens = "visual.attnpool", config.grid**2 + 1
    yield f"{pool}.positional_embedding", random.normal(tokens, channels, std=channels**-0.5)
    for name, out in (("q", channels), ("k", channels), ("v", channels), ("c", embed_dim)):
        yield from random.linear(f"{pool}.{name}_proj", out, channels)


def random_weights(config: ModelConfig, seed: int = 0) -> Weights:
    """Canonical tensors of a model, float32 (BatchNorm's counters int64), logit_scale = ln 100.

    Sizes come from the config alone; the same config and seed give the same bits.
    """
    random, text = _Random(seed), config.text
    if isinstance(config.vision, ResNetConfig):
        weights = dict(_resnet(random, config.vision, config.embed_dim))
    else:
        weights = dict(_vision_transformer(random, config.vision, config.embed_dim))
    weights["token_embedding.weight"] = random.normal(text.vocab_size, text.width, std=0.02)
    weights["positional_embedding"] = random.normal(text.context_length, text.width, std=0.01)
    weights.update(_transformer(random, "", text.width, text.layers, text.mlp_width))
    weights.update(random.norm("ln_final", text.width))
    weights["text_projection"] = random.normal(text.width, config.embed_dim, std=text.width**-0.5)
    weights["logit_scale"] = torch.tensor(math.log(100.0))
    return weights


_STAYS_FLOAT32 = re.compile(
    r"(ln_|\bbn\d|downsample\.1\.|embedding|logit_scale|num_batches_tracked)"
)


def is_half_in_openai(name: str) -> bool:
    """Whether OpenAI's files store this tensor as float16: convolutions, linears, projections."""
    return _STAYS_FLOAT32.search(name) is None


def round_like_openai(weights: Weights) -> Weights:
    """The same float32 tensors, rounded to float16 values where OpenAI's files store float16."""
    return {k: v.half().float() if is_half_in_openai(k) else v for k, v in weights.items()}


def halve_like_openai(weights: Weights) -> Weights:
    """As round_like_openai, kept in float16, one tensor at a time in the same dict: half the memory."""
    for name in weights:
        if is_half_in_openai(name):
            weights[name] = weights[name].half()
    return weights


def with_outliers(weights: Weights) -> Weights:
    """The same weights with what trained towers have and random ones lack, to judge quantised precisions on.

    Four residual channels at 30 to 80 times the others, a spike of the class token, and norms that turn those channels
    down and whose other gains are skewed over two orders of magnitude.
    """
    random = torch.Generator().manual_seed(5)
    changed = {name: tensor.clone() for name, tensor in weights.items()}
    channels, spikes = torch.tensor([3, 17, 40, 55]), torch.tensor([60.0, -45.0, 30.0, 80.0])
    changed["visual.ln_pre.bias"][channels] += spikes
    changed["visual.class_embedding"][channels] += 3 * spikes
    changed["positional_embedding"][:, channels] += spikes * weights["token_embedding.weight"].std()
    for name, tensor in changed.items():
        if re.search(r"(ln_1|ln_2|ln_final|ln_post)\.weight$", name):
            tensor *= torch.exp(0.8 * torch.randn(len(tensor), generator=random))
            tensor[channels] *= 0.02
    return changed
