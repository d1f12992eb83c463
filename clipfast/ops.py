"""The contract between the model and every backend: one documented callable per fused operation.

Symbols: B sequences of the batch, T packed rows (all sequences' tokens one after another, no padding), D width,
H heads, Dh = D / H, L tokens of a sequence, R image size, P patch size, E embedding width.

Rules that hold for every operation:
- Arguments are on one device; matrices have unit stride in the last axis; any other stride is allowed.
- Statistics, softmax and logits are computed in at least float32, whatever the storage dtype.
- Outputs are new tensors. Same input, same bits, twice. Empty batches (B = 0) give empty outputs.
- The softmax scale is folded into the query weights (`parameters.Block`), so attention does not scale.
- The residual stream may be wider than the weights (float32 beside bfloat16): `linear` returns the residual's
  dtype when one is given, and `layer_norm` returns the dtype that it is asked for.

The last block of a tower computes one query per sequence: `attention_pool` over that block's own key and value rows. It
is an operation of its own (not an option of `attention`) because the unused query rows are then never computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal, Protocol, overload

import torch

from clipfast import parameters

Tensor = torch.Tensor
LinearActivation = Literal["gelu", "quick_gelu", "silu", "relu"]


@dataclass(frozen=True)
class PrefixTree:
    """Which packed rows each run of rows attends to, when sequences share their prefixes.

    A run is what one sequence adds to the prefix that it shares with earlier ones. Run r owns the packed rows
    cu_queries[r]:cu_queries[r+1]; its keys are the rows key_rows[cu_keys[r]:cu_keys[r+1]], from the root down to
    and including its own rows, which come last. With n rows and m keys, row j of the run sees the first m - n + j + 1.

    cu_queries, cu_keys: (runs + 1,) int32. key_rows: (cu_keys[-1],) int32.
    """

    cu_queries: Tensor
    cu_keys: Tensor
    key_rows: Tensor


class PatchEmbed(Protocol):
    def __call__(
        self,
        pixels: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        class_row: Tensor,
        positions: Tensor,
    ) -> Tensor:
        """tokens[b] = [class_row; patches(pixels[b]) @ weight^T + bias + positions].

        Args:
            pixels: (B, 3, R, R) uint8 in [0, 255], or floating point as the weight expects it.
            weight: (D, 3*P*P), input features ordered channel, row, column. P = sqrt(K / 3).
            bias: (D,) or None.
            class_row: (D,), class embedding + position 0.
            positions: (L - 1, D), L - 1 = (R // P)^2 in row-major order.
        Returns: (B, L, D) in the weight's dtype, float32 accumulation.
        Source: Dosovitskiy et al. 2020, arXiv:2010.11929, equation 1.
        """
        ...


class LayerNorm(Protocol):
    def __call__(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        residual: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """y = (r - mean(r)) / sqrt(var(r) + eps) * weight + bias, with r = x + residual (var without Bessel).

        Args:
            x: (M, D). residual: (M, D) or None, added first.
            weight, bias: (D,) or None (folded into the next linear).
            dtype: of y; x's dtype when None.
        Returns: y (M, D); with a residual the pair (y, r), r in the residual's dtype.
        Source: Ba et al. 2016, arXiv:1607.06450.
        """
        ...


class Product(Protocol):
    """`Linear` without row_scale and return_row_stats, which `backends.reference.with_row_options` adds."""

    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *,
        activation: LinearActivation | None = None,
        residual: Tensor | None = None,
    ) -> Tensor: ...


class Linear(Protocol):
    @overload
    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *,
        activation: LinearActivation | None = None,
        residual: Tensor | None = None,
        row_scale: Tensor | None = None,
        return_row_stats: Literal[False] = False,
    ) -> Tensor: ...
    @overload
    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *,
        activation: LinearActivation | None = None,
        residual: Tensor | None = None,
        row_scale: Tensor | None = None,
        return_row_stats: Literal[True],
    ) -> tuple[Tensor, Tensor]: ...
    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *,
        activation: LinearActivation | None = None,
        residual: Tensor | None = None,
        row_scale: Tensor | None = None,
        return_row_stats: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """y = activation(row_scale * (x @ weight^T) + bias) + residual.

        Args:
            x: (M, K). weight: (N, K), same dtype. bias: (N,) or None.
            activation: "gelu" is exact (erf); "silu" is x * sigmoid(x); "quick_gelu" is x * sigmoid(1.702 x).
            residual: (M, N) or None; may be wider than x.
            row_scale: (M,) float32 or None, e.g. the reciprocal RMS of a LayerNorm whose mean is folded away.
            return_row_stats: also return the row sums of squares of y, for the next row_scale.
        Returns: y (M, N) in the residual's dtype, else x's; float32 accumulation. With return_row_stats
            the pair (y, stats), stats (M,) float32.
        """
        ...


@dataclass(frozen=True)
class Stream:
    """The residual stream as `StreamProducts` hand it on: no LayerNorm has read it, and none needs to.

    x: (M, D). narrow: (M, D), x in the weights' dtype. sums: (M, 2P) float32, of P parts of each row of x: their sums,
    then their sums of squares.
    """

    x: Tensor
    narrow: Tensor
    sums: Tensor

    def __getitem__(self, rows: Tensor | slice) -> Stream:
        """The stream of these rows alone."""
        return Stream(*(part[rows].contiguous() for part in (self.x, self.narrow, self.sums)))


class AddToStream(Protocol):
    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> Stream:
        """The stream residual + x @ weight^T + bias; arguments as `Linear`."""
        ...


class ReadStream(Protocol):
    def __call__(
        self,
        stream: Stream,
        weight: Tensor,
        bias: Tensor | None,
        eps: float,
        *,
        activation: LinearActivation | None = None,
    ) -> Tensor:
        """y = activation(n @ weight^T + bias), n = (x - mean(x)) / sqrt(var(x) + eps), x the stream.

        Args:
            weight: (N, D), each row without a mean: n @ weight^T = (x @ weight^T) / sqrt(var(x) + eps) then.
            bias, activation: as `Linear`.
        Returns: y (M, N) in the weight's dtype.
        """
        ...


@dataclass(frozen=True)
class StreamProducts:
    """The products around the residual stream, where they take LayerNorm's place between each other."""

    add: AddToStream
    read: ReadStream


class Attention(Protocol):
    def __call__(
        self,
        qkv: Tensor,
        heads: int,
        *,
        cu_seqlens: Tensor | None = None,
        length: int | None = None,
        causal: bool = False,
    ) -> Tensor:
        """softmax(q k^T) v for each head of each sequence; row i sees rows <= i of its sequence when causal.

        Args:
            qkv: (T, 3D), columns ordered query, key, value, each split into heads of Dh.
            heads: H.
            cu_seqlens: (B + 1,) int32, sequence b is rows cu_seqlens[b]:cu_seqlens[b+1] (ragged), possibly none; or
            length: every sequence has this many rows (T = B * length). Exactly one of the two.
        Returns: (T, D) in qkv's dtype, heads concatenated.
        Source: Vaswani et al. 2017, arXiv:1706.03762, equation 1.
        """
        ...


class TreeAttention(Protocol):
    def __call__(self, qkv: Tensor, heads: int, tree: PrefixTree) -> Tensor:
        """Causal attention where each row sees its ancestors in a prefix tree and itself.

        Args:
            qkv: (T, 3D) as in `Attention`; every prefix of the batch appears once.
        Returns: (T, D) in qkv's dtype.
        """
        ...


class AttentionPool(Protocol):
    def __call__(
        self,
        query: Tensor,
        kv: Tensor,
        heads: int,
        *,
        cu_seqlens: Tensor | None = None,
        length: int | None = None,
        key_rows: Tensor | None = None,
    ) -> Tensor:
        """softmax(q k^T) v with one query per sequence, which sees all of the sequence's keys.

        Args:
            query: (B, D). kv: (T, 2D), columns ordered key, value.
            cu_seqlens, length: as in `Attention`: which keys belong to which query. A query without keys gets any row.
            key_rows: (K,) int32 or None: the keys of sequence b are the rows
                key_rows[cu_seqlens[b]:cu_seqlens[b+1]] of kv (prefix trees share rows).
        Returns: (B, D) in query's dtype.
        """
        ...


class Convolution(Protocol):
    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        *,
        stride: int = 1,
        padding: int = 0,
        relu: bool = False,
        residual: Tensor | None = None,
    ) -> Tensor:
        """y = relu(conv(x, weight) + bias + residual), BatchNorm folded.

        Args:
            x: (B, I, H, W). weight: (O, I, k, k). bias: (O,). residual: like y, or None.
        Returns: (B, O, H', W') in x's dtype, channels-last in memory.
        """
        ...


class Similarity(Protocol):
    def __call__(self, queries: Tensor, keys: Tensor, scale: float) -> Tensor:
        """p = softmax over keys of scale * cos(query, key); rows of both are L2-normalised first.

        Args:
            queries: (M, E) floating point. keys: (N, E), same dtype. scale: e.g. 100.0.
        Returns: (M, N) float32, rows sum to 1.
        Source: Radford et al. 2021, arXiv:2103.00020, figure 3.
        """
        ...


class TopK(Protocol):
    def __call__(self, queries: Tensor, gallery: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k largest cosines of each query over the gallery; ties go to the lower index.

        A row with NaN or an infinity has NaN cosines, which rank below every number (failed inputs never match).

        Args:
            queries: (M, E) floating point. gallery: (N, E), k <= N. Rows are L2-normalised first.
        Returns: scores (M, k) float32 descending, indices (M, k) int64. Memory O(M k), never M x N.
        """
        ...


class LogSumExp(Protocol):
    def __call__(self, queries: Tensor, keys: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """log sum exp of scale * cos(query, key) over keys (rows) and over queries (columns), in one pass.

        Returns: rows (M,) float32, columns (N,) float32; M x N is never materialised.
        """
        ...


class ResizeCrop(Protocol):
    def __call__(self, images: Sequence[Tensor], size: int) -> Tensor:
        """Bicubic resize of the shorter side to `size`, then the centre crop, with the bits of Pillow 13.

        Args:
            images: (H, W, 3) uint8 each, of any sizes, the pixels of a row one after another.
        Returns: (B, 3, size, size) uint8.
        """
        ...


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
