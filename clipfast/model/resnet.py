"""CLIP's modified ResNet: three-convolution stem, average-pool strides, attention pooling with one query.

Source: Radford et al. 2021, arXiv:2103.00020, section 2.4 (ResNet-D, anti-aliased pooling, attention pooling).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from clipfast.config import ResNetConfig
from clipfast.ops import Ops, Tensor
from clipfast.parameters import AttentionPool, Bottleneck, ResNet, Stem


def encode_resnet(p: ResNet, config: ResNetConfig, ops: Ops, pixels: Tensor) -> Tensor:
    """Image embeddings, not normalised.

    Args:
        pixels: (B, 3, R, R) uint8, or floating point and normalised already.
    Returns: (B, E) in the weights' dtype.
    """
    x = _stem(p.stem, ops, pixels)
    for stage in p.stages:
        for bottleneck in stage:
            x = _bottleneck(bottleneck, ops, x)
    return _attention_pool(p.attention_pool, config, ops, x)


def _stem(p: Stem, ops: Ops, pixels: Tensor) -> Tensor:
    bordered = _bordered(pixels, p)
    conv1 = p.conv1 if pixels.dtype == torch.uint8 else p.float_conv1
    x = ops.convolution(bordered, conv1.weight, conv1.bias, stride=2, relu=True)
    x = ops.convolution(x, p.conv2.weight, p.conv2.bias, padding=1, relu=True)
    x = ops.convolution(x, p.conv3.weight, p.conv3.bias, padding=1, relu=True)
    return F.avg_pool2d(x, 2)


def _bordered(pixels: Tensor, p: Stem) -> Tensor:
    """The pixels in the weights' dtype with a border of what normalises to zero, channels-last."""
    batch, channels, height, width = pixels.shape
    x = torch.empty(
        (batch, channels, height + 2, width + 2),
        dtype=p.conv1.weight.dtype,
        device=pixels.device,
        memory_format=torch.channels_last,
    )
    border = p.pad_pixel if pixels.dtype == torch.uint8 else torch.zeros_like(p.pad_pixel)
    x[:] = border[:, None, None]
    x[:, :, 1:-1, 1:-1] = pixels
    return x


def _bottleneck(p: Bottleneck, ops: Ops, x: Tensor) -> Tensor:
    y = ops.convolution(x, p.conv1.weight, p.conv1.bias, relu=True)
    y = ops.convolution(y, p.conv2.weight, p.conv2.bias, padding=1, relu=True)
    if p.stride > 1:
        y = F.avg_pool2d(y, p.stride)
        x = F.avg_pool2d(x, p.stride)
    if p.downsample is not None:
        x = ops.convolution(x, p.downsample.weight, p.downsample.bias)
    return ops.convolution(y, p.conv3.weight, p.conv3.bias, relu=True, residual=x)


def _attention_pool(p: AttentionPool, config: ResNetConfig, ops: Ops, x: Tensor) -> Tensor:
    cells = x.flatten(2).transpose(1, 2)
    wide = cells.to(p.positions.dtype)
    tokens = torch.cat([wide.mean(dim=1, keepdim=True), wide], dim=1) + p.positions
    tokens = tokens.to(p.kv.weight.dtype)
    query = ops.linear(tokens[:, 0], p.query.weight, p.query.bias)
    pooled = _pool(p.kv.weight, config.heads, query, tokens)
    return ops.linear(pooled, p.out_proj.weight, p.out_proj.bias)


def _pool(kv: Tensor, heads: int, query: Tensor, tokens: Tensor) -> Tensor:
    """softmax(query (W_k t)^T) W_v t of each head, without a key or a value for every token t:

        query (W_k t)^T = (query W_k) t^T,        sum_t p_t (W_v t) = W_v (sum_t p_t t)

    which is about L times less arithmetic, as there is one query. Logits and softmax are float32.
    """
    batch, _, width = tokens.shape
    key, value = kv.view(2, heads, -1, width)
    wide = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    asked = torch.bmm(query.view(batch, heads, -1).transpose(0, 1), key).transpose(0, 1)
    weights = torch.softmax(torch.bmm(asked.to(wide.dtype), wide.transpose(1, 2)), dim=-1)
    seen = torch.bmm(weights, wide).to(tokens.dtype).transpose(0, 1)
    return torch.bmm(seen, value.transpose(1, 2)).transpose(0, 1).reshape(batch, width)
