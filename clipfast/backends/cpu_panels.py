"""Linear layers by the products of csrc/cpu/product.h, their weights packed into panels once, when the model is loaded.

    y = activation(x @ weight^T + bias) + residual                                   float32, bfloat16
    y[m] = activation(s[m] w (x[m] - z) @ r^T + bias) + residual[m],   weight ~ w r    int8, see `cpu_quantised`

Everything after the product runs on the sums of a tile, before they leave the first-level cache. A row's bits depend
on that row alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, overload

import torch
import torch.nn.functional as F

from clipfast.backends import cpu_linear, cpu_quantised
from clipfast.backends.cpu_linear import SplitLinear
from clipfast.backends.cpu_operands import check_matrix, threads, typed_matrix
from clipfast.backends.cpu_quantised import rounded
from clipfast.backends.cpu_tape import empty, kernels
from clipfast.errors import InputError
from clipfast.ops import LinearActivation, Tensor
from clipfast.parameters import Convolution, Linear

# Elements of a unit of 32 bits.
_PER_UNIT = {torch.float32: 1, torch.bfloat16: 2, torch.int8: 4}
_FEATURES = 64
# The instruction set of these products.
ISA = "avx512_bf16"
# The least features times inputs of convolutions that were measured to be faster here than by oneDNN, by 1% to 60%.
# Smaller ones are of large images, and bound by memory.
_LEAST_OF_CONVOLUTION = 1 << 16


@dataclass(frozen=True)
class Bytes:
    """What a weight of bytes is multiplied with: scale (N,) float32; zero: the byte that stands for zero in x;
    correction: (N,) int32, what subtracts it."""

    scale: Tensor
    zero: int
    correction: Tensor


class PanelWeight(torch.Tensor):
    """A weight (N, K) of the compute dtype that exists only as panels: (ceil(N / 64), units, 64) int32.

    bytes: of an int8 weight, else None. operands: both as `_native.product` takes them.
    """

    panels: Tensor
    bytes: Bytes | None
    operands: tuple[tuple[int, int, int], tuple[int, int, int]]

    @staticmethod
    def of(weight: Tensor) -> PanelWeight:
        """The same numbers, float32 or bfloat16, in another order; (O, I, k, k) of a convolution as (O, k * k * I)."""
        numbers = weight if weight.dim() == 2 else weight.permute(0, 2, 3, 1).flatten(1)
        return PanelWeight._of(weight, numbers, None)

    @staticmethod
    def of_bytes(weight: Tensor, zero: int) -> PanelWeight:
        """Rounded to the nearest of 255 steps between the extremes of each output feature."""
        codes, scale = rounded(weight)
        correction = -zero * codes.sum(dim=1, dtype=torch.int32)
        return PanelWeight._of(weight, codes, Bytes(scale, zero, correction))

    @staticmethod
    def _of(like: Tensor, numbers: Tensor, of_bytes: Bytes | None) -> PanelWeight:
        units = numbers.contiguous().view(torch.int32)
        if len(units) % _FEATURES:
            units = F.pad(units, (0, 0, 0, -len(units) % _FEATURES))
        panels = units.view(-1, _FEATURES, units.shape[1]).transpose(1, 2).contiguous()
        packed = torch.Tensor._make_wrapper_subclass(PanelWeight, like.shape, dtype=like.dtype)  # noqa: SLF001
        assert isinstance(packed, PanelWeight)
        packed.panels, packed.bytes = panels, of_bytes
        scales = (0, 0, 0)
        if of_bytes is not None:
            addresses = of_bytes.correction.data_ptr(), of_bytes.scale.data_ptr()
            scales = (of_bytes.zero, *addresses)
        packed.operands = (panels.data_ptr(), panels.shape[1], len(like)), scales
        return packed

    # Attributes are read as those of any tensor, without a detour of microseconds.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # noqa: SLF001

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch declares an instance method, and wants this
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Tensor:
        raise TypeError(f"{func} cannot read a weight in panels")


def are_fastest(isa: str) -> bool:
    """Whether these products were measured to be the fastest: with AVX512-BF16, where oneDNN has no AMX to use."""
    from clipfast import _native

    return isa == ISA and not _native.cpu_features()["amx_tile"]


def prepare(linear: Linear, boundary: int | None = None, *, activated: bool = False) -> Linear:
    """The layer with its weight in panels; arguments as `ops.Prepare`. Where K is no whole units it goes to oneDNN."""
    if not _has_units(linear.weight, linear.weight.dtype):
        return cpu_linear.prepare(linear, boundary, activated=activated)
    return _packed(linear, boundary, PanelWeight.of)


def quantise(linear: Linear, boundary: int | None = None, *, activated: bool = False) -> Linear:
    """The layer with an int8 weight in panels, or oneDNN's as above; arguments as `ops.Prepare`."""
    if not _has_units(linear.weight, torch.int8):
        return cpu_quantised.quantise(linear, boundary, activated=activated)
    zero = cpu_quantised.zero_of(activated=activated)
    return _packed(linear, boundary, lambda weight: PanelWeight.of_bytes(weight, zero))


def prepare_convolution(convolution: Convolution) -> Convolution:
    """The layer with its weight in panels where oneDNN was measured to be slower, else as it is."""
    weight = convolution.weight
    features, inputs, kernel, _ = weight.shape
    slower = kernel in (1, 3) and features * inputs >= _LEAST_OF_CONVOLUTION
    if not slower or not _has_units(weight, weight.dtype):
        return convolution
    return Convolution(PanelWeight.of(weight), _wide(convolution.bias))


def _has_units(weight: Tensor, stored: torch.dtype) -> bool:
    """Whether the rows of a weight, stored as `stored`, are units of 32 bits."""
    return weight.dtype in _PER_UNIT and weight.shape[1] % _PER_UNIT[stored] == 0


def _packed(linear: Linear, boundary: int | None, pack: Callable[[Tensor], PanelWeight]) -> Linear:
    layer = Linear(pack(linear.weight), _wide(linear.bias))
    if boundary is None:
        return layer
    parts = (_packed(linear.rows(*rows), None, pack) for rows in ((0, boundary), (boundary, None)))
    return SplitLinear(layer.weight, layer.bias, *parts)


@overload
def _wide(bias: Tensor) -> Tensor: ...
@overload
def _wide(bias: Tensor | None) -> Tensor | None: ...
def _wide(bias: Tensor | None) -> Tensor | None:
    """A bias as the products read it."""
    return None if bias is None else bias.float().contiguous()


def product(
    x: Tensor,
    weight: PanelWeight,
    bias: Tensor | None,
    activation: LinearActivation | None,
    residual: Tensor | None,
    *,
    rectified: bool = False,
    image: tuple[int, int] | None = None,
) -> Tensor:
    """activation(x @ weight^T + bias) + residual: (M, N) in the residual's dtype, else x's; >= 0 where rectified.

    Args:
        x: (M, K) in the weight's dtype. bias: (N,) or None. activation: None, "silu" or "gelu".
        residual: (M, N) float32 or bfloat16, or None.
        image: height and width of the images whose pixels x holds, of a 3x3 convolution padded with zeros.
    Raises: InputError.
    """
    features, width = weight.shape[:2]
    check_matrix("linear", x, width)
    if weight.bytes is None and x.dtype != weight.dtype:
        raise InputError(
            f"linear needs {weight.dtype}, as its weight, got {x.dtype}", code="wrong_type"
        )
    if residual is not None:
        check_matrix("linear", residual, features)
        if len(residual) != len(x):
            raise InputError(
                f"linear needs a residual of {len(x)} rows, got {len(residual)}", code="wrong_shape"
            )
    bias = _wide(bias)
    out = empty(len(x), features, dtype=(x if residual is None else residual).dtype)
    panels, scales = weight.operands
    kernels().product(
        typed_matrix(x),
        panels,
        0 if bias is None else bias.data_ptr(),
        scales,
        activation or "none",
        typed_matrix(residual),
        rectified,
        typed_matrix(out),
        image or (0, 0),
        threads(),
    )
    return out
