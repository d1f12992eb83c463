"""Pre-norm transformer blocks on packed rows, and the last block, which computes only the rows that are pooled.

    x = x + out_proj(attention(qkv(ln_1 x)));   x = x + c_proj(activation(c_fc(ln_2 x)))

The residual stream x keeps its own dtype (float32 beside bfloat16 weights). Source: Vaswani et al. 2017;
pre-norm as in Radford et al. 2021, arXiv:2103.00020.
"""

from __future__ import annotations

from collections.abc import Callable

from clipfast.ops import Ops, Tensor
from clipfast.parameters import Block, LayerNorm


def normalise(ops: Ops, x: Tensor, norm: LayerNorm, like: Tensor) -> Tensor:
    """LayerNorm of x in the dtype of `like`."""
    y = ops.layer_norm(x, norm.weight, norm.bias, norm.eps, dtype=like.dtype)
    assert isinstance(y, Tensor)
    return y


def block(ops: Ops, x: Tensor, p: Block, attend: Callable[[Tensor], Tensor]) -> Tensor:
    """One block. x: (T, D) residual stream. attend: qkv (T, 3D) -> (T, D)."""
    qkv = ops.linear(normalise(ops, x, p.ln_1, p.qkv.weight), p.qkv.weight, p.qkv.bias)
    return _after_attention(ops, x, attend(qkv), p)


def pooled_block(
    ops: Ops, x: Tensor, rows: Tensor, p: Block, pool: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """The last block for the pooled rows alone: keys and values of all rows, everything else of one row a sequence.

    x: (T, D). rows: (B,) the pooled row of each sequence. pool: query (B, D), kv (T, 2D) -> (B, D). Returns (B, D).
    """
    width = x.shape[1]
    query, kv = p.qkv.rows(0, width), p.qkv.rows(width)
    y = normalise(ops, x, p.ln_1, p.qkv.weight)
    attended = pool(
        ops.linear(y[rows], query.weight, query.bias),
        ops.linear(y, kv.weight, None),  # the key and value biases are folded away
    )
    return _after_attention(ops, x[rows], attended, p)


def _after_attention(ops: Ops, x: Tensor, attended: Tensor, p: Block) -> Tensor:
    x, y = _add_and_normalise(ops, x, attended, p)
    hidden = ops.linear(y, p.c_fc.weight, p.c_fc.bias, activation=p.activation)
    return ops.linear(hidden, p.c_proj.weight, p.c_proj.bias, residual=x)


def _add_and_normalise(ops: Ops, x: Tensor, attended: Tensor, p: Block) -> tuple[Tensor, Tensor]:
    """x + out_proj(attended), and ln_2 of it: the sum is made by whichever operation makes it cheaper."""
    weight, bias, norm = p.out_proj.weight, p.out_proj.bias, p.ln_2
    if not ops.adds_in_norm:
        x = ops.linear(attended, weight, bias, residual=x)
        return x, normalise(ops, x, norm, p.c_fc.weight)
    delta = ops.linear(attended, weight, bias)
    y, x = ops.layer_norm(
        delta, norm.weight, norm.bias, norm.eps, residual=x, dtype=p.c_fc.weight.dtype
    )
    return x, y
