"""What a backend is: every operation, and how it wants its weights and its batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Protocol

import torch

from clipfast import parameters
from clipfast.ops.encoding import (
    Attention,
    AttentionPool,
    Convolution,
    LayerNorm,
    Linear,
    PatchEmbed,
    ResizeCrop,
    StreamProducts,
    Tensor,
    TreeAttention,
)
from clipfast.ops.gallery import LogSumExp, Similarity, TopK


class Prepare(Protocol):
    def __call__(
        self, linear: parameters.Linear, boundary: int | None = None, *, activated: bool = False
    ) -> parameters.Linear:
        """The same layer in the layout that the backend's `linear` reads fastest, once, at load.

        Its weight may be opaque: shape and dtype are what they were, and nothing else may be asked of it.

        Args:
            linear: on the CPU.
            boundary: of its output features; `rows(0, boundary)` and `rows(boundary)` will be asked for.
            activated: its input comes out of an activation, so that it is never much below zero.
        """
        ...


def as_it_is(
    linear: parameters.Linear, boundary: int | None = None, *, activated: bool = False
) -> parameters.Linear:
    """`Prepare` where there is nothing to do."""
    return linear


class PrepareConvolution(Protocol):
    def __call__(self, convolution: parameters.Convolution) -> parameters.Convolution:
        """The same, as `Prepare`, of a convolution of stride 1 whose padding keeps the size of the image."""
        ...


def convolution_as_it_is(convolution: parameters.Convolution) -> parameters.Convolution:
    """`PrepareConvolution` where there is nothing to do."""
    return convolution


# What every backend serves. `resize_crop` is an operation too, but one that a backend may lack.
OPERATIONS = (
    "patch_embed",
    "layer_norm",
    "linear",
    "attention",
    "tree_attention",
    "attention_pool",
    "convolution",
    "similarity",
    "top_k",
    "log_sum_exp",
)


class RepeatedFunction(Protocol):
    def __call__(self, x: Tensor) -> Tensor: ...
    def forget(self) -> None:
        """Gives back what it remembers."""
        ...


class Repeat(Protocol):
    def __call__(self, function: Callable[[Tensor], Tensor]) -> RepeatedFunction:
        """The same function, cheaper to call with an input like one before.

        Args:
            function: what it does follows from the shape and dtype of its input alone.
        """
        ...


class UnsupportedReason(Protocol):
    def __call__(self, name: str, *, device: torch.device, dtype: torch.dtype) -> str | None:
        """None when the operation can serve tensors of this device and dtype, else the sentence why not."""
        ...


def _always_supported(name: str, *, device: torch.device, dtype: torch.dtype) -> str | None:
    return None


@dataclass(frozen=True)
class Ops:
    """One backend: an implementation of every operation. What it borrows from another is written in `sources`."""

    name: str
    patch_embed: PatchEmbed
    layer_norm: LayerNorm
    linear: Linear
    attention: Attention
    tree_attention: TreeAttention
    attention_pool: AttentionPool
    convolution: Convolution
    similarity: Similarity
    top_k: TopK
    log_sum_exp: LogSumExp
    resize_crop: ResizeCrop | None = None
    unsupported_reason: UnsupportedReason = _always_supported
    prepare: Prepare = as_it_is
    prepare_convolution: PrepareConvolution = convolution_as_it_is
    # The same of a layer within a block of an 8-bit model, where the backend has such products.
    quantise: Prepare | None = None
    # Whether a residual costs less in `layer_norm` than in the `linear` before it.
    adds_in_norm: bool = False
    # Products that do the LayerNorms within blocks, where the backend has them.
    stream: StreamProducts | None = None
    # Makes a tower's batches cheaper from the second of a size on, where the backend can.
    repeated: Repeat | None = None
    # Batches that a CPU computes at once, each by its share of the threads; more than one only where that was measured
    # to be faster, and a row's bits do not depend on the number of threads.
    batches_at_once: int = 1
    # Whether packed attention makes the host wait for the device, which a graph may not.
    packed_waits: bool = True
    sources: Mapping[str, str] = field(default_factory=dict)

    def describe(self) -> dict[str, str]:
        """Operation -> the backend whose kernel runs it, and why when it is borrowed."""
        return {name: self.sources.get(name, self.name) for name in OPERATIONS}


assert set(OPERATIONS) <= {f.name for f in fields(Ops)}
