"""Towers in 8-bit floats (W8A8): weights e4m3 with a scale for each output feature, activations quantised as they run.

    x ~ s[m] q[m]                      by the LayerNorm that makes it, one scale a row
    hidden ~ s[m, g] q[m]              by the product that makes it, one scale a row and 128 columns
    y = s[m] w[n] (q[m] @ r[n]) + b    8-bit products, sums of 128 of them promoted to float32

In fp8: qkv, c_fc and c_proj of every block but the last, which are nine tenths of its products. In the base's dtype:
patch embedding, attention and out_proj (no operation before it quantises), the last block and the projections.
Source: Micikevicius et al. 2022, arXiv:2209.05433; FP8 CLIP in NVIDIA's Model Optimizer keeps the patch embedding too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from clipfast.backends import reference
from clipfast.errors import UnsupportedError
from clipfast.ops import Linear as LinearOperation
from clipfast.ops import LinearActivation, Ops, Tensor
from clipfast.parameters import Block, Linear, Parameters, VisionTransformer

FP8 = torch.float8_e4m3fn
GROUP = 128
_LARGEST = 448.0


class Scaled(torch.Tensor):
    """A matrix (M, K) that exists only as 8-bit floats with their scales: codes * scale.

    codes: (M, K) e4m3. scale: (M, 1) float32, or (M, ceil(K / 128)), one for each 128 columns.
    """

    codes: Tensor
    scale: Tensor

    @staticmethod
    def of(codes: Tensor, scale: Tensor) -> Scaled:
        """The two, as one tensor of dtype e4m3 that only fp8 products read."""
        scaled = torch.Tensor._make_wrapper_subclass(  # noqa: SLF001
            Scaled, codes.shape, dtype=FP8, device=codes.device
        )
        assert isinstance(scaled, Scaled)
        scaled.codes, scaled.scale = codes, scale
        return scaled

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch declares an instance method, and wants this
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Tensor:
        device = (kwargs or {}).get("device")
        if func is torch.ops.aten._to_copy.default and device is not None:  # noqa: SLF001
            return Scaled.of(args[0].codes.to(device), args[0].scale.to(device))
        raise TypeError(f"{func} cannot read a matrix of scaled 8-bit floats")


class Kernels(Protocol):
    """What multiplies: Triton's kernels, or the same arithmetic in plain torch."""

    def layer_norm(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        residual: Tensor | None,
    ) -> tuple[Scaled, Tensor | None]:
        """`ops.LayerNorm`, its rows quantised; and x + residual where there is one."""
        ...

    def linear(
        self,
        x: Scaled,
        weight: Scaled,
        bias: Tensor | None,
        *,
        activation: LinearActivation | None,
        residual: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        """`ops.Linear` in dtype, or in groups of 128 quantised columns where dtype is e4m3."""
        ...


def quantised(wide: Tensor, group: int) -> Scaled:
    """Each row's `group` columns over their largest magnitude, rounded to the nearest e4m3.

    Args:
        wide: (M, K) floating point. group: columns of a scale.
    """
    parts = torch.split(wide.float(), group, dim=1)
    largest = torch.stack([part.abs().amax(dim=1) for part in parts], dim=1)
    scale = torch.where(largest > 0, largest / _LARGEST, 1.0)
    values = [part / scale[:, [at]] for at, part in enumerate(parts)]
    return Scaled.of(torch.cat(values, dim=1).to(FP8), scale)


def widened(x: Scaled) -> Tensor:
    """codes * scale, (M, K) float32."""
    wide = x.codes.float()
    if x.scale.shape[1] == 1:
        return wide * x.scale
    return wide * x.scale.repeat_interleave(GROUP, dim=1)[:, : wide.shape[1]]


@dataclass(frozen=True)
class PlainKernels:
    """The definition, in plain torch on any device: the operands that the tensor cores see, multiplied in float32."""

    def layer_norm(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        residual: Tensor | None,
    ) -> tuple[Scaled, Tensor | None]:
        y = reference.layer_norm(x.float(), weight, bias, eps, residual)
        normed, total = y if isinstance(y, tuple) else (y, None)
        return quantised(normed, max(1, normed.shape[1])), total

    def linear(
        self,
        x: Scaled,
        weight: Scaled,
        bias: Tensor | None,
        *,
        activation: LinearActivation | None,
        residual: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        y = widened(x) @ widened(weight).T
        y = reference.activate(y if bias is None else y + bias.float(), activation)
        if residual is not None:
            return (y + residual).to(residual.dtype)
        return quantised(y, GROUP) if dtype == FP8 else y.to(dtype)


@dataclass(frozen=True)
class TritonKernels:
    """`clipfast.kernels.layer_norm` and `clipfast.kernels.linear_fp8`."""

    def layer_norm(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        residual: Tensor | None,
    ) -> tuple[Scaled, Tensor | None]:
        from clipfast.kernels.layer_norm import layer_norm

        y, total, scale = layer_norm(x, weight, bias, eps, residual, dtype=FP8)
        assert scale is not None, "an fp8 output has scales"
        return Scaled.of(y, scale[:, None]), total

    def linear(
        self,
        x: Scaled,
        weight: Scaled,
        bias: Tensor | None,
        *,
        activation: LinearActivation | None,
        residual: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        from clipfast.kernels.linear_fp8 import linear_fp8

        y, scale = linear_fp8(
            x.codes,
            x.scale,
            weight.codes,
            weight.scale[:, 0],
            bias,
            activation=activation,
            residual=residual,
            dtype=dtype,
        )
        return y if scale is None else Scaled.of(y, scale)


def in_fp8(ops: Ops, device: torch.device) -> Ops:
    """The operations with Triton's 8-bit products, for `fp8_parameters`.

    Raises:
        UnsupportedError: the backend's products are not Triton's, or the device has no 8-bit ones.
    """
    reason = unsupported_reason(ops, device)
    if reason is not None:
        raise UnsupportedError(f"precision 'fp8' cannot be served on {device}: {reason}")
    return fp8_ops(ops, TritonKernels())


def unsupported_reason(ops: Ops, device: torch.device) -> str | None:
    """None when fp8 products run over these operations on this device, else the sentence why not."""
    if ops.describe()["linear"] != "triton":
        return f"backend {ops.name!r} multiplies with {ops.describe()['linear']}, and fp8 needs Triton's kernels"
    from clipfast.kernels.configs import hardware_of
    from clipfast.kernels.linear_fp8 import unsupported_reason as of_architecture

    return of_architecture(hardware_of(device).architecture) if device.type == "cuda" else None


def fp8_ops(base: Ops, kernels: Kernels, dtype: torch.dtype = torch.bfloat16) -> Ops:
    """`base`, where layer norms that are asked for e4m3, and products of what they give, are `kernels`'.

    dtype: of what base multiplies.
    """

    def layer_norm(
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        residual: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        if dtype != FP8:
            return base.layer_norm(x, weight, bias, eps, residual, dtype)
        y, total = kernels.layer_norm(x, weight, bias, eps, residual)
        return y if total is None else (y, total)

    return replace(
        base,
        layer_norm=layer_norm,
        linear=_linear_of(base, kernels, dtype),
        stream=None,  # its LayerNorms quantise rows
        sources={
            **base.sources,
            "layer_norm": f"{base.describe()['layer_norm']}, fp8 rows within blocks",
            "linear": f"{base.describe()['linear']}, fp8 in qkv, c_fc and c_proj of all blocks but the last",
        },
    )


def _linear_of(base: Ops, kernels: Kernels, narrow: torch.dtype) -> LinearOperation:
    def linear(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *,
        activation: LinearActivation | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        if not isinstance(weight, Scaled):
            return base.linear(x, weight, bias, activation=activation, residual=residual)
        assert isinstance(x, Scaled), "fp8 weights multiply what an fp8 operation made"
        # The only product of a block with an activation is c_fc, and c_proj reads it.
        dtype = narrow if activation is None else FP8
        return kernels.linear(
            x, weight, bias, activation=activation, residual=residual, dtype=dtype
        )

    return linear


def fp8_parameters(parameters: Parameters) -> Parameters:
    """The same model, its blocks but the last of each transformer with e4m3 weights."""
    text = replace(parameters.text, blocks=_blocks(parameters.text.blocks))
    vision = parameters.vision
    if isinstance(vision, VisionTransformer):
        vision = replace(vision, blocks=_blocks(vision.blocks))
    return replace(parameters, vision=vision, text=text)


def _blocks(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    return (
        tuple(
            replace(
                block,
                qkv=_quantised_layer(block.qkv),
                c_fc=_quantised_layer(block.c_fc),
                c_proj=_quantised_layer(block.c_proj),
            )
            for block in blocks[:-1]
        )
        + blocks[-1:]
    )


def _quantised_layer(layer: Linear) -> Linear:
    return Linear(quantised(layer.weight, layer.weight.shape[1]), layer.bias)
