"""Plain torch, any dtype, any device: the definition of every operation. In float64 it is the truth of the tests."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from clipfast.backends.resize_reference import resize_crop
from clipfast.ops import Linear, LinearActivation, Ops, PrefixTree, Product, Tensor

# Rows of the gallery scored at a time, as elements of the (M, chunk) score block.
_SCORE_BLOCK = 1 << 22


def patch_embed(
    pixels: Tensor, weight: Tensor, bias: Tensor | None, class_row: Tensor, positions: Tensor
) -> Tensor:
    width, features = weight.shape
    patch = round((features / 3) ** 0.5)
    kernel = weight.view(width, 3, patch, patch)
    patches = F.conv2d(pixels.to(weight.dtype), kernel, bias, stride=patch)
    tokens = patches.flatten(2).transpose(1, 2) + positions
    first = class_row.expand(tokens.shape[0], 1, width)
    return torch.cat([first, tokens], dim=1).to(weight.dtype)


def layer_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r = x if residual is None else (x + residual).to(residual.dtype)
    wide = _at_least_float32(r.dtype)
    scale, shift = (None if p is None else p.to(wide) for p in (weight, bias))
    y = F.layer_norm(r.to(wide), r.shape[-1:], scale, shift, eps).to(dtype or x.dtype)
    return y if residual is None else (y, r)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    activation: LinearActivation | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    y = activate(F.linear(x, weight, bias), activation)
    return y if residual is None else (y + residual).to(residual.dtype)


def with_row_options(product: Product) -> Linear:
    """A product with `Linear`'s row_scale and return_row_stats, computed apart."""

    def with_options(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *,
        activation: LinearActivation | None = None,
        residual: Tensor | None = None,
        row_scale: Tensor | None = None,
        return_row_stats: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        if row_scale is None:
            y = product(x, weight, bias, activation=activation, residual=residual)
        else:
            y = product(x, weight, None) * row_scale[:, None]
            y = activate((y if bias is None else y + bias).to(x.dtype), activation)
            y = y if residual is None else (y + residual).to(residual.dtype)
        return (y, y.float().square().sum(dim=-1)) if return_row_stats else y

    return with_options  # type: ignore[return-value]  # one body for the two overloads


def activate(y: Tensor, activation: LinearActivation | None) -> Tensor:
    """activation(y), in y's dtype."""
    match activation:
        case None:
            return y
        case "gelu":
            return F.gelu(y)
        case "silu":
            return F.silu(y)
        case "quick_gelu":
            return y * torch.sigmoid(1.702 * y)
        case "relu":
            return F.relu(y)
    raise ValueError(f"unknown activation {activation!r}")


def attention(
    qkv: Tensor,
    heads: int,
    *,
    cu_seqlens: Tensor | None = None,
    length: int | None = None,
    causal: bool = False,
) -> Tensor:
    width = qkv.shape[1] // 3
    if length is not None:
        q, k, v = (_split_heads(part, length, heads) for part in qkv.chunk(3, dim=1))
        return _merge_heads(_attend(q, k, v, causal=causal))
    assert cu_seqlens is not None, "attention needs cu_seqlens or length"
    out = qkv.new_empty(qkv.shape[0], width)
    for rows in _rows_by_length(cu_seqlens):
        picked = qkv[rows.flatten()]
        out[rows.flatten()] = attention(picked, heads, length=rows.shape[1], causal=causal)
    return out


def tree_attention(qkv: Tensor, heads: int, tree: PrefixTree) -> Tensor:
    width = qkv.shape[1] // 3
    out = qkv.new_empty(qkv.shape[0], width)
    for queries, keys in _runs_by_shape(tree):
        n, m = queries.shape[1], keys.shape[1]
        q = _split_heads(qkv[queries.flatten(), :width], n, heads)
        k, v = (
            _split_heads(part, m, heads) for part in qkv[keys.flatten(), width:].chunk(2, dim=1)
        )
        visible = torch.ones(n, m, dtype=torch.bool, device=qkv.device).tril(m - n)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=1.0)
        out[queries.flatten()] = _merge_heads(attended)
    return out


def attention_pool(
    query: Tensor,
    kv: Tensor,
    heads: int,
    *,
    cu_seqlens: Tensor | None = None,
    length: int | None = None,
    key_rows: Tensor | None = None,
) -> Tensor:
    if length is not None:
        q = _split_heads(query, 1, heads)
        k, v = (_split_heads(part, length, heads) for part in kv.chunk(2, dim=1))
        return _merge_heads(_attend(q, k, v, causal=False))
    assert cu_seqlens is not None, "attention_pool needs cu_seqlens or length"
    out = torch.empty_like(query)
    lengths = cu_seqlens.diff()
    for rows in _rows_by_length(cu_seqlens):
        chosen = torch.nonzero(lengths == rows.shape[1]).flatten()
        picked = rows.flatten() if key_rows is None else key_rows[rows.flatten()]
        out[chosen] = attention_pool(query[chosen], kv[picked], heads, length=rows.shape[1])
    return out


def _split_heads(rows: Tensor, length: int, heads: int) -> Tensor:
    """(B * length, D) -> (B, H, length, Dh)."""
    return rows.reshape(-1, length, heads, rows.shape[1] // heads).transpose(1, 2)


def _merge_heads(attended: Tensor) -> Tensor:
    """(B, H, length, Dh) -> (B * length, D)."""
    return attended.transpose(1, 2).flatten(2).flatten(0, 1)


def _attend(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=1.0)


def _rows_by_length(cu_seqlens: Tensor) -> Iterator[Tensor]:
    """For each sequence length n > 0: the rows (sequences, n) of the sequences that have it; nothing is padded."""
    starts, lengths = cu_seqlens[:-1].long(), cu_seqlens.diff()
    for n in filter(None, torch.unique(lengths).tolist()):
        first = starts[lengths == n]
        yield first[:, None] + torch.arange(n, device=first.device)


def _runs_by_shape(tree: PrefixTree) -> Iterator[tuple[Tensor, Tensor]]:
    """For each (n, m): the query rows (runs, n) and key rows (runs, m) of the runs with n rows and m keys."""
    shapes = torch.stack([tree.cu_queries.diff(), tree.cu_keys.diff()], dim=1)
    for n, m in torch.unique(shapes, dim=0).tolist():
        chosen = (shapes[:, 0] == n) & (shapes[:, 1] == m)
        queries = tree.cu_queries[:-1].long()[chosen]
        keys = tree.cu_keys[:-1].long()[chosen]
        steps = torch.arange(m, device=keys.device)
        yield queries[:, None] + steps[:n], tree.key_rows[keys[:, None] + steps].long()


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    stride: int = 1,
    padding: int = 0,
    relu: bool = False,
    residual: Tensor | None = None,
) -> Tensor:
    y = F.conv2d(x, weight, bias, stride=stride, padding=padding)
    if residual is not None:
        y = y + residual
    return F.relu(y) if relu else y


def similarity(queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    return torch.softmax(scale * (_unit_rows(queries) @ _unit_rows(keys).T), dim=-1)


def top_k(queries: Tensor, gallery: Tensor, k: int) -> tuple[Tensor, Tensor]:
    unit_queries = _unit_rows(queries)
    scores = unit_queries.new_empty(len(queries), 0)
    indices = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start, unit_chunk in _unit_chunks(gallery, len(queries)):
        chunk_scores = unit_queries @ unit_chunk.T
        chunk_indices = torch.arange(start, start + len(unit_chunk), device=queries.device)
        scores = torch.cat([scores, chunk_scores], dim=1)
        indices = torch.cat([indices, chunk_indices.expand(chunk_scores.shape)], dim=1)
        # Stable, and the lower index stands first in the concatenation: ties go to it.
        ranked = torch.where(scores.isnan(), -torch.inf, scores)
        order = ranked.argsort(dim=1, descending=True, stable=True)[:, :k]
        scores, indices = scores.gather(1, order), indices.gather(1, order)
    return scores, indices


def log_sum_exp(queries: Tensor, keys: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    unit_queries = _unit_rows(queries)
    rows = unit_queries.new_full((len(queries),), -torch.inf)
    columns = [unit_queries.new_empty(0)]
    for _, unit_chunk in _unit_chunks(keys, len(queries)):
        logits = scale * (unit_queries @ unit_chunk.T)
        rows = torch.logaddexp(rows, logits.logsumexp(dim=1))
        columns.append(logits.logsumexp(dim=0))
    return rows, torch.cat(columns)


def _unit_chunks(gallery: Tensor, queries: int) -> Iterator[tuple[int, Tensor]]:
    step = max(1, _SCORE_BLOCK // max(1, queries))
    for start in range(0, len(gallery), step):
        yield start, _unit_rows(gallery[start : start + step])


def _unit_rows(x: Tensor) -> Tensor:
    return F.normalize(x.to(_at_least_float32(x.dtype)), dim=-1)


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


REFERENCE = Ops(
    name="reference",
    patch_embed=patch_embed,
    layer_norm=layer_norm,
    linear=with_row_options(linear),
    attention=attention,
    tree_attention=tree_attention,
    attention_pool=attention_pool,
    convolution=convolution,
    similarity=similarity,
    top_k=top_k,
    log_sum_exp=log_sum_exp,
    resize_crop=resize_crop,
)
