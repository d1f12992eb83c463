"""Pre-norm transformer blocks on packed rows, and the last block, which computes only the rows that are pooled.

    x = x + out_proj(attention(qkv(ln_1 x)));   x = x + c_proj(activation(c_fc(ln_2 x)))

The residual stream x keeps its own dtype (float32 beside bfloat16 weights). Where the backend has `StreamProducts`, x
is a `Stream` from the first sum on, and its LayerNorms are part of the products that read it.
Source: Vaswani et al. 2017; pre-norm as in Radford et al. 2021, arXiv:2103.00020.
"""

from __future__ import annotations

from collections.abc import Callable

from clipfast.ops import LinearActivation, Ops, Stream, Tensor
from clipfast.parameters import Block, LayerNorm, Linear

Residual = Tensor | Stream


def normalise(ops: Ops, x: Tensor, norm: LayerNorm, like: Tensor) -> Tensor:
    """LayerNorm of x in the dtype of `like`."""
    y = ops.layer_norm(x, norm.weight, norm.bias, norm.eps, dtype=like.dtype)
    assert isinstance(y, Tensor)
    return y


def block(ops: Ops, x: Residual, p: Block, attend: Callable[[Tensor], Tensor]) -> Residual:
    """One block. x: (T, D) residual stream. attend: qkv (T, 3D) -> (T, D)."""
    return _after_attention(ops, x, attend(_read(ops, x, p.ln_1, p.qkv)), p)


def pooled_block(
    ops: Ops, x: Residual, rows: Tensor | slice, p: Block, pool: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """The last block for the pooled rows alone: keys and values of all rows, everything else of one row a sequence.

    x: (T, D). rows: the B pooled ones, one of each sequence. pool: query (B, D), kv (T, 2D) -> (B, D). Returns (B, D).
    """
    width = wide(x).shape[1]
    query, kv = (
        p.qkv.rows(0, width),
        Linear(p.qkv.rows(width).weight),
    )  # without biases: folded away
    pooled = x[rows]
    attended = pool(_read(ops, pooled, p.ln_1, query), _read(ops, x, p.ln_1, kv))
    return wide(_after_attention(ops, pooled, attended, p))


def wide(x: Residual) -> Tensor:
    """The stream itself."""
    return x.x if isinstance(x, Stream) else x


def _after_attention(ops: Ops, x: Residual, attended: Tensor, p: Block) -> Residual:
    if ops.adds_in_norm:
        delta = ops.linear(attended, p.out_proj.weight, p.out_proj.bias)
        norm, dtype = p.ln_2, p.c_fc.weight.dtype
        y, x = ops.layer_norm(
            delta, norm.weight, norm.bias, norm.eps, residual=wide(x), dtype=dtype
        )
        hidden = ops.linear(y, p.c_fc.weight, p.c_fc.bias, activation=p.activation)
    else:
        x = _add(ops, x, attended, p.out_proj)
        hidden = _read(ops, x, p.ln_2, p.c_fc, p.activation)
    return _add(ops, x, hidden, p.c_proj)


def _read(
    ops: Ops,
    x: Residual,
    norm: LayerNorm,
    layer: Linear,
    activation: LinearActivation | None = None,
) -> Tensor:
    """activation(layer(norm(x)))."""
    if isinstance(x, Stream):
        assert ops.stream is not None, "a stream comes out of products that read it too"
        assert norm.weight is None, "its scale and shift are folded into the layer"
        return ops.stream.read(x, layer.weight, layer.bias, norm.eps, activation=activation)
    y = normalise(ops, x, norm, layer.weight)
    return ops.linear(y, layer.weight, layer.bias, activation=activation)


def _add(ops: Ops, x: Residual, y: Tensor, layer: Linear) -> Residual:
    """x + layer(y)."""
    if ops.stream is not None:
        return ops.stream.add(y, layer.weight, layer.bias, wide(x))
    return ops.linear(y, layer.weight, layer.bias, residual=wide(x))
