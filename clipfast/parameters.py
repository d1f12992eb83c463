"""A model's weights in the layout the operations read: folded, fused, (out_features, in_features).

`checkpoint.folds` makes these from canonical tensors; `model` runs them, `export` writes them as graphs, and the
backends may pack their weights.
Folded means: LayerNorm scale and shift live in the next linear; the softmax scale lives in the query rows; key bias is
dropped and value bias lives in the output bias; QuickGELU is SiLU with c_fc x 1.702 and c_proj / 1.702;
BatchNorm lives in its convolution; pixel normalisation lives in the first convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Literal, TypeVar, cast

import torch

Tensor = torch.Tensor
Node = TypeVar("Node")


@dataclass(frozen=True)
class Linear:
    """y = x @ weight^T + bias. weight: (N, K); bias: (N,) or None."""

    weight: Tensor
    bias: Tensor | None = None

    def rows(self, start: int, stop: int | None = None) -> Linear:
        """The output features start:stop, as views."""
        return Linear(self.weight[start:stop], None if self.bias is None else self.bias[start:stop])


@dataclass(frozen=True)
class LayerNorm:
    """weight, bias: (D,), or None where they are folded into the next linear."""

    weight: Tensor | None
    bias: Tensor | None
    eps: float


@dataclass(frozen=True)
class Block:
    """One pre-norm transformer block.

    qkv: (3D, D) rows ordered query (scaled by head_dim^-0.5), key, value; its bias is zero outside the query rows.
    activation: what the operations apply after c_fc; QuickGELU arrives here as "silu".
    """

    ln_1: LayerNorm
    qkv: Linear
    out_proj: Linear
    ln_2: LayerNorm
    c_fc: Linear
    c_proj: Linear
    activation: Literal["gelu", "silu"]


@dataclass(frozen=True)
class PatchEmbed:
    """weight, bias: for uint8 pixels, normalisation folded in, (D, 3*P*P) and (D,).
    float_weight: the same convolution for pixels that are normalised already (no bias).
    class_row: (D,) class embedding + its position. positions: (L - 1, D) of the patches."""

    weight: Tensor
    bias: Tensor
    float_weight: Tensor
    class_row: Tensor
    positions: Tensor


@dataclass(frozen=True)
class VisionTransformer:
    patch_embed: PatchEmbed
    ln_pre: LayerNorm
    blocks: tuple[Block, ...]
    ln_post: LayerNorm
    proj: Linear


@dataclass(frozen=True)
class Convolution:
    """weight: (O, I, k, k), BatchNorm folded; bias: (O,)."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Bottleneck:
    """1x1, 3x3, 1x1 convolutions; the stride is an average pool after the second and before downsample."""

    conv1: Convolution
    conv2: Convolution
    conv3: Convolution
    downsample: Convolution | None
    stride: int


@dataclass(frozen=True)
class Stem:
    """conv1 reads uint8 pixels (normalisation folded in), its borders padded with `pad_pixel` (3,), which is
    what normalises to zero; float_conv1 reads normalised pixels, padded with zeros."""

    conv1: Convolution
    pad_pixel: Tensor
    float_conv1: Convolution
    conv2: Convolution
    conv3: Convolution


@dataclass(frozen=True)
class AttentionPool:
    """positions: (1 + G*G, F), the mean token first. query: scaled by head_dim^-0.5. kv: (2F, F) without bias."""

    positions: Tensor
    query: Linear
    kv: Linear
    out_proj: Linear


@dataclass(frozen=True)
class ResNet:
    stem: Stem
    stages: tuple[tuple[Bottleneck, ...], ...]
    attention_pool: AttentionPool


@dataclass(frozen=True)
class TextTransformer:
    """token_embedding: (V, D). positions: (context_length, D)."""

    token_embedding: Tensor
    positions: Tensor
    blocks: tuple[Block, ...]
    ln_final: LayerNorm
    proj: Linear


@dataclass(frozen=True)
class Parameters:
    """Both towers, and the exponentiated logit scale (100.0 for the published weights)."""

    vision: VisionTransformer | ResNet
    text: TextTransformer
    logit_scale: float


def map_tensors(node: Node, function: Callable[[Tensor], Tensor]) -> Node:
    """The same parameters with `function` applied to every tensor (device moves, dtype casts, packing)."""
    if isinstance(node, Tensor):
        return cast(Node, function(node))
    if isinstance(node, tuple):
        return cast(Node, tuple(map_tensors(item, function) for item in node))
    if is_dataclass(node) and not isinstance(node, type):
        changed = {
            field.name: map_tensors(getattr(node, field.name), function) for field in fields(node)
        }
        return cast(Node, replace(node, **changed))
    return node
