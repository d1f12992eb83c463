"""What the towers are made of, on the CPU: products by oneDNN, all between them by the C++ kernels of csrc/cpu."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from clipfast.backends import cpu_panels, reference
from clipfast.backends.cpu_linear import product
from clipfast.backends.cpu_operands import (
    DTYPES,
    check_matrix,
    matrix,
    threads,
    typed_matrix,
)
from clipfast.backends.cpu_panels import PanelWeight
from clipfast.backends.cpu_quantised import QuantisedProducts, QuantisedWeight
from clipfast.backends.cpu_tape import empty, kernels
from clipfast.errors import InputError
from clipfast.ops import LinearActivation, PrefixTree, Tensor

# Activations that products apply to their own sums; others follow.
_FUSED = (None, "silu", "gelu")


@dataclass(frozen=True)
class TowerKernels:
    """LayerNorm, attention, patch embedding and linear layers, for one instruction set.

    Results are the same bits for any number of threads, and no row depends on its neighbours, but for products:
    oneDNN chooses its blocking by the number of rows.
    """

    isa: str

    def layer_norm(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        residual: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """See `clipfast.ops.LayerNorm`. Statistics float32. Raises: InputError."""
        out = empty(*x.shape, dtype=dtype or x.dtype)
        r = self._normalise(x, residual, out, weight, bias, eps)
        return out if r is None else (out, r)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """x + residual in the residual's dtype: (M, D)."""
        r = self._normalise(x, residual, None, None, None, 0.0)
        assert r is not None
        return r

    def _normalise(
        self,
        x: Tensor,
        residual: Tensor | None,
        out: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor | None:
        """Writes out, where there is one; returns x + residual, where there is one."""
        check_matrix("layer_norm", x)
        r = None
        if residual is not None:
            check_matrix("layer_norm", residual, x.shape[1])
            r = empty(*residual.shape, dtype=residual.dtype)
        scale, shift = (None if p is None else p.float().contiguous() for p in (weight, bias))
        kernels().layer_norm(
            typed_matrix(x),
            typed_matrix(residual),
            typed_matrix(r),
            typed_matrix(out),
            0 if scale is None else scale.data_ptr(),
            0 if shift is None else shift.data_ptr(),
            x.shape[1],
            eps,
            self.isa,
            threads(),
        )
        return r

    def linear(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *,
        activation: LinearActivation | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """See `clipfast.ops.Linear`; the weight may be as any `Prepare` of the CPU's left it."""
        if len(x) == 0:
            return (x if residual is None else residual).new_empty(0, weight.shape[0])
        if not isinstance(weight, PanelWeight | QuantisedWeight):
            y = product(x, weight, bias, activation)
            return y if residual is None else self.add(y, residual)
        if activation not in _FUSED:
            y = reference.activate(self.linear(x, weight, bias), activation)
            return y if residual is None else (y + residual).to(residual.dtype)
        if isinstance(weight, PanelWeight):
            return cpu_panels.product(x, weight, bias, activation, residual)
        products = QuantisedProducts(self.isa)
        return products.linear(x, weight, bias, activation=activation, residual=residual)

    def patch_embed(
        self,
        pixels: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        class_row: Tensor,
        positions: Tensor,
    ) -> Tensor:
        """See `clipfast.ops.PatchEmbed`; bytes become rows of patches that meet the packed weight."""
        if pixels.dtype != torch.uint8:
            return reference.patch_embed(pixels, weight, bias, class_row, positions)
        embedded = self.linear(self._patches(pixels, weight), weight, bias)
        return self._tokens(embedded, len(pixels), class_row, positions)

    def _tokens(
        self, embedded: Tensor, images: int, class_row: Tensor, positions: Tensor
    ) -> Tensor:
        """(B * P, D) patches to (B, 1 + P, D) tokens in their dtype. Raises: InputError."""
        patches, width = len(positions), embedded.shape[1]
        for rows in (class_row[None], positions):
            check_matrix("patch_embed", rows, width)
        if len(embedded) != images * patches:
            raise InputError(
                f"patch_embed has {patches} positions, got {len(embedded)} patches of {images} images",
                code="wrong_shape",
            )
        out = empty(images * (1 + patches), width, dtype=embedded.dtype)
        kernels().tokens(
            typed_matrix(embedded),
            typed_matrix(class_row[None]),
            typed_matrix(positions),
            typed_matrix(out),
            width,
            self.isa,
            threads(),
        )
        return out.view(images, 1 + patches, width)

    def _patches(self, pixels: Tensor, weight: Tensor) -> Tensor:
        """(B, 3, R, R) uint8 to (B * (R // P)^2, 3 * P * P) in the weight's dtype."""
        if pixels.dim() != 4 or pixels.shape[1] != 3 or pixels.device.type != "cpu":
            raise InputError(
                f"patch_embed reads (B, 3, R, R) on cpu, got {tuple(pixels.shape)} on {pixels.device}",
                code="wrong_shape",
            )
        lines = pixels if pixels.stride(3) == 1 else pixels.contiguous()
        patch = round((weight.shape[1] / 3) ** 0.5)
        grid = pixels.shape[2] // patch
        rows = empty(len(pixels) * grid * grid, weight.shape[1], dtype=weight.dtype)
        kernels().patches(
            lines.data_ptr(),
            lines.stride()[:3],
            len(pixels),
            grid,
            patch,
            matrix(rows),
            DTYPES[weight.dtype],
            threads(),
        )
        return rows

    def attention(
        self,
        qkv: Tensor,
        heads: int,
        *,
        cu_seqlens: Tensor | None = None,
        length: int | None = None,
        causal: bool = False,
    ) -> Tensor:
        """See `clipfast.ops.Attention`. Raises: InputError."""
        check_matrix("attention", qkv)
        if cu_seqlens is None:
            rows = length or 1
            segments = Segments(len(qkv) // rows, None, None, None, rows, rows)
        else:
            segments = Segments(len(cu_seqlens) - 1, cu_seqlens, cu_seqlens, None)
        return self._attend(qkv.chunk(3, dim=1), heads, segments, causal=causal)

    def tree_attention(self, qkv: Tensor, heads: int, tree: PrefixTree) -> Tensor:
        """See `clipfast.ops.TreeAttention`. Raises: InputError."""
        check_matrix("tree_attention", qkv)
        runs = len(tree.cu_queries) - 1
        segments = Segments(runs, tree.cu_queries, tree.cu_keys, tree.key_rows)
        return self._attend(qkv.chunk(3, dim=1), heads, segments, causal=True)

    def attention_pool(
        self,
        query: Tensor,
        kv: Tensor,
        heads: int,
        *,
        cu_seqlens: Tensor | None = None,
        length: int | None = None,
        key_rows: Tensor | None = None,
    ) -> Tensor:
        """See `clipfast.ops.AttentionPool`. Raises: InputError."""
        check_matrix("attention_pool", query)
        check_matrix("attention_pool", kv, 2 * query.shape[1])
        segments = Segments(len(query), None, cu_seqlens, key_rows, 1, length or 0)
        return self._attend((query, *kv.chunk(2, dim=1)), heads, segments, causal=False)

    def _attend(
        self, operands: Sequence[Tensor], heads: int, segments: Segments, *, causal: bool
    ) -> Tensor:
        """operands: query, key and value rows."""
        queries, keys, values = operands
        out = empty(*queries.shape, dtype=queries.dtype)
        kernels().attention(
            matrix(queries),
            matrix(keys),
            matrix(values),
            matrix(out),
            (heads, queries.shape[1] // heads),
            DTYPES[queries.dtype],
            segments.addresses(),
            (segments.query_length, segments.key_length),
            causal,
            self.isa,
            threads(),
        )
        return out


@dataclass(frozen=True)
class Segments:
    """Which query rows meet which keys. cu_queries, cu_keys: (count + 1,) int32; None: equal lengths."""

    count: int
    cu_queries: Tensor | None
    cu_keys: Tensor | None
    key_rows: Tensor | None
    query_length: int = 0
    key_length: int = 0

    def addresses(self) -> tuple[int, int, int, int]:
        """The count, and the addresses of cu_queries, cu_keys and key_rows. Raises: InputError."""
        lists = (self.cu_queries, self.cu_keys, self.key_rows)
        for numbers in lists:
            if numbers is not None and (
                numbers.dtype != torch.int32 or not numbers.is_contiguous()
            ):
                raise InputError(
                    f"attention reads contiguous int32 offsets, got {numbers.dtype}, strides {numbers.stride()}",
                    code="wrong_type",
                )
        queries, keys, rows = (0 if numbers is None else numbers.data_ptr() for numbers in lists)
        return self.count, queries, keys, rows
