"""The causal text transformer on packed rows: only the tokens up to each text's EOT are ever computed.

A causal tower pooled at the first end-of-text token does not see what follows it, so padding is left out, and
texts that share a prefix may share its rows (`PrefixTree`). Source: Radford et al. 2021, arXiv:2103.00020, section 2.4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from clipfast.config import TextConfig
from clipfast.model.transformer import Residual, block, normalise, pooled_block, wide
from clipfast.ops import Ops, PrefixTree, Tensor
from clipfast.parameters import TextTransformer


@dataclass(frozen=True)
class TextRows:
    """One batch of texts as packed rows.

    ids: (T,) int32 tokens, SOT to EOT of each text (each shared prefix once, when there is a tree).
    positions: (T,) int32 position of each row in its text.
    cu_seqlens: (B + 1,) int32. Without a tree text b is the rows cu_seqlens[b]:cu_seqlens[b+1].
    tree: who attends to whom when prefixes are shared; then text b is the rows
        key_rows[cu_seqlens[b]:cu_seqlens[b+1]], key_rows (K,) int32.
    """

    ids: Tensor
    positions: Tensor
    cu_seqlens: Tensor
    tree: PrefixTree | None = None
    key_rows: Tensor | None = None

    @property
    def eot_rows(self) -> Tensor:
        """(B,) int64: the last row of each text."""
        last = self.cu_seqlens[1:].long() - 1
        return last if self.key_rows is None else self.key_rows[last].long()


def encode_text(p: TextTransformer, config: TextConfig, ops: Ops, rows: TextRows) -> Tensor:
    """Text embeddings, not normalised: (B, E) in the weights' dtype."""
    x = _blocks(p, config, ops, rows, config.layers - 1)
    pooled = pooled_block(
        ops,
        x,
        rows.eot_rows,
        p.blocks[-1],
        lambda query, kv: ops.attention_pool(
            query, kv, config.heads, cu_seqlens=rows.cu_seqlens, key_rows=rows.key_rows
        ),
    )
    y = normalise(ops, pooled, p.ln_final, p.proj.weight)
    return ops.linear(y, p.proj.weight, p.proj.bias)


def text_tokens(
    p: TextTransformer,
    config: TextConfig,
    ops: Ops,
    rows: TextRows,
    layers: int,
    *,
    final_norm: bool,
) -> Tensor:
    """The residual stream after `layers` blocks, through ln_final when asked: (T, D) in the stream's dtype."""
    x = wide(_blocks(p, config, ops, rows, layers))
    return normalise(ops, x, p.ln_final, x) if final_norm else x


def _blocks(
    p: TextTransformer, config: TextConfig, ops: Ops, rows: TextRows, layers: int
) -> Residual:
    def attend(qkv: Tensor) -> Tensor:
        if rows.tree is not None:
            return ops.tree_attention(qkv, config.heads, rows.tree)
        return ops.attention(qkv, config.heads, cu_seqlens=rows.cu_seqlens, causal=True)

    embedded = torch.nn.functional.embedding(rows.ids, p.token_embedding)
    x: Residual = embedded + p.positions[rows.positions]
    for layer in p.blocks[:layers]:
        x = block(ops, x, layer, attend)
    return x
