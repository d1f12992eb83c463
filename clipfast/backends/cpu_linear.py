"""Linear layers by oneDNN, their weights packed once, when the model is loaded.

    y = activation(x @ weight^T + bias)

Activation and bias run on the float32 accumulators, inside the product. SiLU is what QuickGELU becomes by the fold of
`checkpoint.folds`. The packed layout is oneDNN's own: it is opaque, and as large as the plain one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from clipfast.backends import reference
from clipfast.ops import LinearActivation, Tensor
from clipfast.parameters import Linear

# What oneDNN calls the activations that it runs inside the product.
_EPILOGUES = {None: "none", "silu": "swish", "gelu": "gelu", "relu": "relu"}


@dataclass(frozen=True)
class SplitLinear(Linear):
    """A packed layer whose output features up to a boundary, and from it on, are packed apart as well."""

    before: Linear | None = None
    after: Linear | None = None

    def rows(self, start: int, stop: int | None = None) -> Linear:
        """The output features :boundary, or boundary:; a packed weight has no other parts."""
        assert self.before is not None, "made by prepare"
        assert self.after is not None, "made by prepare"
        boundary = self.before.weight.shape[0]
        if (start, stop) == (0, boundary):
            return self.before
        assert (start, stop) == (boundary, None), "only the two parts are packed"
        return self.after


def prepare(linear: Linear, boundary: int | None = None, *, activated: bool = False) -> Linear:
    """The layer with its weight packed, where oneDNN is the fastest that this processor has.

    Args:
        linear: weight (N, K), bias (N,) or None.
        boundary: `rows(0, boundary)` and `rows(boundary)` will be asked for.
        activated: makes no difference here.
    """
    if not packs(linear.weight.dtype):
        return linear
    packed = _packed(linear)
    if boundary is None:
        return packed
    before, after = (_packed(linear.rows(*rows)) for rows in ((0, boundary), (boundary, None)))
    return SplitLinear(packed.weight, packed.bias, before, after)


def packs(dtype: torch.dtype) -> bool:
    """Whether products of this dtype go to oneDNN: where it computes in it natively, else torch chooses."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001  (torch's only name for it)
    return dtype == torch.float32


def _packed(linear: Linear) -> Linear:
    weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.contiguous())  # noqa: SLF001
    return Linear(weight, linear.bias)


def product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: LinearActivation | None = None,
) -> Tensor:
    """activation(x @ weight^T + bias) in x's dtype: (M, N).

    Args:
        x: (M, K). weight: (N, K), plain or from `prepare`. bias: (N,) or None.
    """
    if not weight.is_mkldnn:
        return reference.linear(x, weight, bias, activation=activation)
    if len(x) == 0:
        return x.new_empty(0, weight.shape[0])
    if activation in _EPILOGUES:
        return _pointwise(x, weight, bias, _EPILOGUES[activation])
    return reference.activate(_pointwise(x, weight, bias, "none"), activation)


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, epilogue: str) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, epilogue, [], "none")  # noqa: SLF001
    return y
