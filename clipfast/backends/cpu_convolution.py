"""Convolutions, channels-last, with bias, residual and ReLU inside the product: by oneDNN, or by panels of weights."""

from __future__ import annotations

import torch

from clipfast.backends import cpu_panels, reference
from clipfast.backends.cpu_linear import packs
from clipfast.backends.cpu_panels import PanelWeight
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
    """See `clipfast.ops.Convolution`; the weight may be as `cpu_panels.prepare_convolution` left it."""
    if isinstance(weight, PanelWeight):
        assert stride == 1, "of what is packed"
        assert 2 * padding == weight.shape[2] - 1, "of what is packed"
        return _by_panels(x, weight, bias, relu=relu, residual=residual)
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


def _by_panels(
    x: Tensor, weight: PanelWeight, bias: Tensor, *, relu: bool, residual: Tensor | None
) -> Tensor:
    images, _, height, width = x.shape
    if images == 0:
        y = x.new_empty(0, height, width, weight.shape[0])
    else:
        rows = cpu_panels.product(
            _pixels(x),
            weight,
            bias,
            None,
            None if residual is None else _pixels(residual),
            rectified=relu,
            image=(height, width) if weight.shape[2] == 3 else None,
        )
        y = rows.view(images, height, width, -1)
    return y.permute(0, 3, 1, 2)


def _pixels(x: Tensor) -> Tensor:
    """(B, C, H, W) as rows, one for each pixel."""
    return x.permute(0, 2, 3, 1).contiguous().flatten(0, 2)
