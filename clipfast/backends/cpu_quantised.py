"""Linear layers on bytes: int8 weights with a scale for each output feature, activations with a scale for each row.

    x ~ s[m] (q - z),  weight ~ w[n] r        y[m, n] = s[m] w[n] sum_k (q[m, k] - z) r[n, k]

z is 128, and 32 after an activation, whose values are never much below zero: its steps are then almost half as wide.
Here oneDNN multiplies the bytes and applies w[n]; what z adds is known beforehand and goes in as its bias. The row's
scale, the layer's bias, the activation and the residual follow in one pass, so that no 32-bit sums pass through memory.
Where the products of `cpu_panels` are faster, only the rounding is from here.
Source: per-token dynamic quantisation, Yao et al. 2022, arXiv:2206.01861.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from clipfast.backends.cpu_linear import SplitLinear
from clipfast.backends.cpu_operands import check_matrix, matrix, threads, typed_matrix
from clipfast.backends.cpu_tape import empty, kernels
from clipfast.ops import LinearActivation, Tensor
from clipfast.parameters import Linear

_LARGEST = 127
_AROUND_ZERO, _ACTIVATED = 128, 32


def zero_of(*, activated: bool) -> int:
    """z of a layer's input."""
    return _ACTIVATED if activated else _AROUND_ZERO


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """r (N, K) int8 and w (N,) float32: the nearest of 255 steps between the extremes of each output feature."""
    wide = weight.float()
    scale = wide.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / _LARGEST
    return torch.round(wide / scale[:, None]).to(torch.int8), scale


@dataclass(frozen=True)
class QuantisedRows:
    """q (M, K) uint8 around a zero, and s (M,) float32."""

    codes: Tensor
    scale: Tensor

    @staticmethod
    def of(x: Tensor, zero: int, isa: str) -> QuantisedRows:
        """Raises: InputError."""
        check_matrix("linear", x)
        codes, scale = empty(*x.shape, dtype=torch.uint8), empty(len(x))
        kernels().quantise(
            typed_matrix(x), matrix(codes), scale.data_ptr(), zero, x.shape[1], isa, threads()
        )
        return QuantisedRows(codes, scale)


class QuantisedWeight(torch.Tensor):
    """A weight (N, K) of the compute dtype that exists only as packed bytes with their scales.

    packed: what oneDNN reads. scale: (N,) float32. zero: the byte that stands for zero in what it is multiplied with;
    shift: (N,) float32, what subtracts it.
    """

    packed: Tensor
    scale: Tensor
    zero: int
    shift: Tensor

    @staticmethod
    def of(weight: Tensor, zero: int = _AROUND_ZERO) -> QuantisedWeight:
        """Rounded to the nearest of 255 steps between the extremes of each output feature."""
        codes, scale = rounded(weight)
        quantised = torch.Tensor._make_wrapper_subclass(  # noqa: SLF001
            QuantisedWeight, weight.shape, dtype=weight.dtype
        )
        assert isinstance(quantised, QuantisedWeight)
        quantised.packed = torch.ops.onednn.qlinear_prepack(codes, None)
        quantised.scale = scale
        quantised.zero = zero
        quantised.shift = -zero * codes.sum(dim=1).float() * scale
        return quantised

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch declares an instance method, and wants this
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Tensor:
        raise TypeError(f"{func} cannot read a quantised weight")


def multiplies_bytes() -> bool:
    """Whether oneDNN is here and the processor adds products of bytes in 32 bits; older ones saturate at 16."""
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    capabilities = torch.cpu.get_capabilities()
    return bool(available and capabilities.get("avx512_vnni"))


def quantise(linear: Linear, boundary: int | None = None, *, activated: bool = False) -> Linear:
    """The layer with an int8 weight; arguments as `ops.Prepare`."""
    weight, bias = QuantisedWeight.of(linear.weight, zero_of(activated=activated)), linear.bias
    bias = None if bias is None else bias.float()
    if boundary is None:
        return Linear(weight, bias)
    parts = (quantise(linear.rows(*rows)) for rows in ((0, boundary), (boundary, None)))
    return SplitLinear(weight, bias, *parts)


@dataclass(frozen=True)
class QuantisedProducts:
    """Products with `QuantisedWeight`, for one instruction set."""

    isa: str

    def linear(
        self,
        x: Tensor,
        weight: QuantisedWeight,
        bias: Tensor | None,
        *,
        activation: LinearActivation | None,
        residual: Tensor | None,
    ) -> Tensor:
        """activation(x @ weight^T + bias) + residual: (M, N) in the residual's dtype, else x's.

        Args:
            activation: None, "silu" or "gelu".
        Raises: InputError.
        """
        rows = QuantisedRows.of(x, weight.zero, self.isa)
        y = torch.ops.onednn.qlinear_pointwise(
            rows.codes, 1.0, 0, weight.packed, weight.scale, _no_zero_points(weight), weight.shift,
            1.0, 0, x.dtype, "none", [], "none",
        )  # fmt: skip
        return self._dequantise(y, rows.scale, bias, activation, residual)

    def _dequantise(
        self,
        y: Tensor,
        row_scale: Tensor,
        bias: Tensor | None,
        activation: LinearActivation | None,
        residual: Tensor | None,
    ) -> Tensor:
        if residual is not None:
            check_matrix("linear", residual, y.shape[1])
        out = empty(*y.shape, dtype=y.dtype if residual is None else residual.dtype)
        kernels().dequantise(
            typed_matrix(y),
            row_scale.data_ptr(),
            0 if bias is None else bias.data_ptr(),
            activation or "none",
            typed_matrix(residual),
            typed_matrix(out),
            y.shape[1],
            self.isa,
            threads(),
        )
        return out


def _no_zero_points(weight: QuantisedWeight) -> Tensor:
    return torch.zeros(weight.shape[0], dtype=torch.int32)
