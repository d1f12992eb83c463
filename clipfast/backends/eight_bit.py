"""Towers in 8 bits (W8A8), fp8 (e4m3) or int8: a scale for each output feature, activations quantised as they run.

    x ~ s[m] q[m]                      by the LayerNorm that makes it, one scale a row
    hidden ~ s[m, g] q[m]              by the product that makes it, one scale a row and 128 columns
    y = s[m] w[n] (q[m] @ r[n]) + b    8-bit products, in int32, or sums of 128 of them promoted to float32

In 8 bits: qkv, c_fc and c_proj of every block but the last, which are nine tenths of its products. In the base's dtype:
patch embedding, attention and out_proj (no operation before it quantises), the last block and the projections.
Before int8, LayerNorms keep a power of two of each channel's scale (`checkpoint.folds`): outlier channels would take
the row's steps. Before e4m3, whose steps follow each number, that costs (centred cosine 0.55, without it 0.86).
Source: Micikevicius et al. 2022, arXiv:2209.05433; Yao et al. 2022, arXiv:2206.01861; FP8 CLIP in NVIDIA's Model
Optimizer keeps the patch embedding too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch

from clipfast.backends import reference
from clipfast.backends.scaled import CODES, GROUP, INT8, Scaled, quantised, widened
from clipfast.errors import UnsupportedError
from clipfast.ops import LinearActivation, Ops, Product, Tensor, as_it_is
from clipfast.parameters import Block, Linear, Parameters, VisionTransformer


class Kernels(Protocol):
    """What multiplies: Triton's kernels, or the same arithmetic in plain torch. codes: the dtype of 8-bit numbers."""

    @property
    def codes(self) -> torch.dtype: ...

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
        """`ops.Linear` in dtype, or in groups of 128 quantised columns where dtype is that of the codes."""
        ...


@dataclass(frozen=True)
class PlainKernels:
    """The definition, in plain torch on any device: the operands that the tensor cores see, multiplied in float32."""

    codes: torch.dtype

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
        return quantised(normed, max(1, normed.shape[1]), self.codes), total

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
        return quantised(y, GROUP, self.codes) if dtype == self.codes else y.to(dtype)


@dataclass(frozen=True)
class TritonKernels:
    """`clipfast.kernels.layer_norm` and `clipfast.kernels.linear_8bit`."""

    codes: torch.dtype

    def layer_norm(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        residual: Tensor | None,
    ) -> tuple[Scaled, Tensor | None]:
        from clipfast.kernels.layer_norm import layer_norm

        y, total, scale = layer_norm(x, weight, bias, eps, residual, dtype=self.codes)
        assert scale is not None, "an 8-bit output has scales"
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
        from clipfast.kernels.linear_8bit import linear_8bit

        y, scale = linear_8bit(
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


def in_8_bits(ops: Ops, device: torch.device, precision: str) -> Ops:
    """The operations with Triton's products of `precision`, "fp8" or "int8", for `parameters_in_8_bits`.

    Raises:
        UnsupportedError: the backend's products are not Triton's, or the device has none of these.
    """
    reason = unsupported_reason(ops, device, precision)
    if reason is not None:
        raise UnsupportedError(f"precision {precision!r} cannot be served on {device}: {reason}")
    return ops_in_8_bits(ops, TritonKernels(CODES[precision]), precision)


def unsupported_reason(ops: Ops, device: torch.device, precision: str) -> str | None:
    """None when products of this precision run over these operations on this device, else the sentence why not."""
    if ops.describe()["linear"] != "triton":
        return f"backend {ops.name!r} has no {precision} kernels; Triton's run on GPUs; else use fp32, bf16 or auto"
    if device.type != "cuda":
        return None
    from clipfast.kernels.hardware import hardware_of
    from clipfast.kernels.linear_8bit import unsupported_reason as of_architecture

    return of_architecture(CODES[precision], hardware_of(device).architecture)


def ops_in_8_bits(
    base: Ops, kernels: Kernels, precision: str, dtype: torch.dtype = torch.bfloat16
) -> Ops:
    """`base`, where layer norms that are asked for 8 bits, and products of what they give, are `kernels`'.

    precision: how it is called. dtype: of what base multiplies.
    """

    def layer_norm(
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        residual: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        if dtype != kernels.codes:
            return base.layer_norm(x, weight, bias, eps, residual, dtype)
        y, total = kernels.layer_norm(x, weight, bias, eps, residual)
        return y if total is None else (y, total)

    return replace(
        base,
        layer_norm=layer_norm,
        linear=reference.with_row_options(_linear_of(base, kernels, dtype)),
        stream=None,  # its LayerNorms quantise rows
        # Codes are made by `parameters_in_8_bits`; the LayerNorms before int8 keep powers of two (see above).
        quantise=as_it_is if kernels.codes == INT8 else None,
        sources={
            **base.sources,
            "layer_norm": f"{base.describe()['layer_norm']}, {precision} rows within blocks",
            "linear": f"{base.describe()['linear']}, {precision} in qkv, c_fc and c_proj of all blocks but the last",
        },
    )


def _linear_of(base: Ops, kernels: Kernels, narrow: torch.dtype) -> Product:
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
        assert isinstance(x, Scaled), "8-bit weights multiply what an 8-bit operation made"
        # The only product of a block with an activation is c_fc, and c_proj reads it.
        dtype = narrow if activation is None else kernels.codes
        return kernels.linear(
            x, weight, bias, activation=activation, residual=residual, dtype=dtype
        )

    return linear


def parameters_in_8_bits(parameters: Parameters, precision: str) -> Parameters:
    """The same model, its blocks but the last of each transformer with fp8 or int8 weights."""
    codes = CODES[precision]
    text = replace(parameters.text, blocks=_blocks(parameters.text.blocks, codes))
    vision = parameters.vision
    if isinstance(vision, VisionTransformer):
        vision = replace(vision, blocks=_blocks(vision.blocks, codes))
    return replace(parameters, vision=vision, text=text)


def _blocks(blocks: tuple[Block, ...], codes: torch.dtype) -> tuple[Block, ...]:
    return (
        tuple(
            replace(
                block,
                qkv=_quantised_layer(block.qkv, codes),
                c_fc=_quantised_layer(block.c_fc, codes),
                c_proj=_quantised_layer(block.c_proj, codes),
            )
            for block in blocks[:-1]
        )
        + blocks[-1:]
    )


def _quantised_layer(layer: Linear, codes: torch.dtype) -> Linear:
    return Linear(quantised(layer.weight, layer.weight.shape[1], codes), layer.bias)
