"""Operations of the encoders, from pixels and packed tokens to rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, overload

import torch

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


class ResizeCrop(Protocol):
    def __call__(self, images: Sequence[Tensor], size: int) -> Tensor:
        """Bicubic resize of the shorter side to `size`, then the centre crop, with the bits of Pillow 13.

        Args:
            images: (H, W, 3) uint8 each, of any sizes, the pixels of a row one after another.
        Returns: (B, 3, size, size) uint8.
        """
        ...
