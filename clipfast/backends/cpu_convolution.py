"""Convolutions by oneDNN, channels-last, with bias, residual and ReLU inside the product."""

from __future__ import annotations

import torch

from clipfast.backends import reference
from clipfast.backends.cpu_linear import packs
from clipfast.ops import Tensor


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
    """See `clipfast.ops.Convolution`."""
    if not packs(x.dtype) or x.numel() == 0:
        return reference.convolution(
            x, weight, bias, stride=stride, padding=padding, relu=relu, residual=residual
        )
    geometry = ([padding] * 2, [stride] * 2, [1, 1], 1)
    kernel = torch.ops.mkldnn._convolution_pointwise  # noqa: SLF001
    y: Tensor
    if residual is None:
        y = kernel(x, weight, bias, *geometry, "relu" if relu else "none", [], "")
    else:
        last = "relu" if relu else None
        y = kernel.binary(x, residual, weight, bias, *geometry, "add", 1.0, last, [], "")
    return y
