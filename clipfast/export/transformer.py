"""Transformer blocks as ONNX nodes: the same wiring as `clipfast.model.transformer`, on padded (batch, L, D).

Attention is MatMul, Softmax, MatMul with the scale already in the query weights: the form that TensorRT fuses into one
kernel in float16 and bfloat16 and that every runtime can compute. Query, key and value are three MatMuls: only the
query has a bias, and no split has to copy the product.
"""

from __future__ import annotations

from collections.abc import Callable

from clipfast.export.graph import Graph
from clipfast.parameters import Block


def blocks(
    g: Graph,
    x: str,
    layers: tuple[Block, ...],
    heads: int,
    length: int,
    pool: Callable[[str, str], str],
    mask: str | None = None,
    pooled_mask: str | None = None,
) -> str:
    """All blocks; of the last one only the pooled row is computed, where the target gains from it its query too.

    Args:
        x: (batch, length, D) residual stream.
        pool: (rows, name) -> the pooled row of each sequence, (batch, 1, D).
        mask: added to the logits, (length, length), or None. pooled_mask: the pooled row's, (batch, 1, 1, length).
    Returns: (batch, 1, D).
    """
    for i, p in enumerate(layers[:-1]):
        name = f"resblocks.{i}"
        y = g.layer_norm(x, p.ln_1, p.qkv.weight.shape[1], f"{name}/ln_1")
        attended = _self_attention(g, y, y, p, heads, (length, length), name, mask)
        x = _after_attention(g, x, attended, p, name)
    p, name = layers[-1], f"resblocks.{len(layers) - 1}"
    y = g.layer_norm(x, p.ln_1, p.qkv.weight.shape[1], f"{name}/ln_1")
    if g.whole_attention:
        attended = _self_attention(g, y, y, p, heads, (length, length), name, mask)
        attended = pool(attended, f"{name}/attn/pooled")
    else:
        row = pool(y, f"{name}/pooled_ln_1")
        attended = _self_attention(g, row, y, p, heads, (1, length), name, pooled_mask)
    return _after_attention(g, pool(x, f"{name}/pooled"), attended, p, name)


def _self_attention(
    g: Graph,
    queries: str,
    y: str,
    p: Block,
    heads: int,
    rows: tuple[int, int],
    name: str,
    mask: str | None,
) -> str:
    """queries: y, or rows of it. rows: how many queries and keys a sequence has. Returns (batch, rows[0], D)."""
    width = p.qkv.weight.shape[1]
    attn = f"{name}/attn"
    q = g.linear(queries, p.qkv.rows(0, width), f"{attn}/query")
    k = g.linear(y, p.qkv.rows(width, 2 * width), f"{attn}/key")
    v = g.linear(y, p.qkv.rows(2 * width), f"{attn}/value")
    return attend(g, (q, k, v), heads, rows, width, attn, mask)


def attend(
    g: Graph,
    qkv: tuple[str, str, str],
    heads: int,
    rows: tuple[int, int],
    width: int,
    name: str,
    mask: str | None = None,
) -> str:
    """softmax(q k^T + mask) v. q: (batch, rows[0], D). k, v: (batch, rows[1], D). Returns (batch, rows[0], D)."""
    head_dim = width // heads

    def by_head(x: str, count: int, order: tuple[int, ...], part: str) -> str:
        x = g.reshape(x, (-1, count, heads, head_dim), f"{name}/{part}_heads")
        return g.transpose(x, order, f"{name}/{part}_by_head")

    q = by_head(qkv[0], rows[0], (0, 2, 1, 3), "query")
    k = by_head(qkv[1], rows[1], (0, 2, 3, 1), "key")
    v = by_head(qkv[2], rows[1], (0, 2, 1, 3), "value")
    logits = g.node("MatMul", [q, k], f"{name}/logits")
    if mask is not None:
        logits = g.add(logits, mask, f"{name}/masked")
    weights = g.node("Softmax", [logits], f"{name}/softmax", axis=-1)
    mixed = g.node("MatMul", [weights, v], f"{name}/mixed")
    merged = g.transpose(mixed, (0, 2, 1, 3), f"{name}/by_row")
    return g.reshape(merged, (-1, width), f"{name}/merged")


def _after_attention(g: Graph, x: str, attended: str, p: Block, name: str) -> str:
    out = g.linear(attended, p.out_proj, f"{name}/attn/out_proj")
    x = g.add(x, out, f"{name}/attn/residual")
    y = g.layer_norm(x, p.ln_2, p.c_fc.weight.shape[1], f"{name}/ln_2")
    hidden = g.linear(y, p.c_fc, f"{name}/mlp/c_fc")
    hidden = g.activate(hidden, p.activation, f"{name}/mlp")
    return g.add(x, g.linear(hidden, p.c_proj, f"{name}/mlp/c_proj"), f"{name}/mlp/residual")
