"""Matrices of 8-bit numbers with their scales: e4m3 or int8, and what rounds to them."""

from __future__ import annotations

from typing import Any

import torch

from clipfast.ops import Tensor

FP8, INT8 = torch.float8_e4m3fn, torch.int8
# What a precision's matrices are stored in, and the largest number of it.
CODES = {"fp8": FP8, "int8": INT8}
_LARGEST = {FP8: 448.0, INT8: 127.0}
GROUP = 128


class Scaled(torch.Tensor):
    """A matrix (M, K) that exists only as 8-bit numbers with their scales: codes * scale.

    codes: (M, K) e4m3 or int8. scale: (M, 1) float32, or (M, ceil(K / 128)), one for each 128 columns.
    """

    codes: Tensor
    scale: Tensor

    @staticmethod
    def of(codes: Tensor, scale: Tensor) -> Scaled:
        """The two, as one tensor of the codes' dtype that only 8-bit products read."""
        scaled = torch.Tensor._make_wrapper_subclass(  # noqa: SLF001
            Scaled, codes.shape, dtype=codes.dtype, device=codes.device
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
        raise TypeError(f"{func} cannot read a matrix of scaled 8-bit numbers")


def quantised(wide: Tensor, group: int, codes: torch.dtype) -> Scaled:
    """Each row's `group` columns over their largest magnitude, rounded to the nearest code.

    Args:
        wide: (M, K) floating point. group: columns of a scale. codes: e4m3 or int8.
    """
    parts = torch.split(wide.float(), group, dim=1)
    largest = torch.stack([part.abs().amax(dim=1) for part in parts], dim=1)
    scale = torch.where(largest > 0, largest / _LARGEST[codes], 1.0)
    values = torch.cat([part / scale[:, [at]] for at, part in enumerate(parts)], dim=1)
    return Scaled.of((torch.floor(values + 0.5) if codes == INT8 else values).to(codes), scale)


def widened(x: Scaled) -> Tensor:
    """codes * scale, (M, K) float32."""
    wide = x.codes.float()
    if x.scale.shape[1] == 1:
        return wide * x.scale
    return wide * x.scale.repeat_interleave(GROUP, dim=1)[:, : wide.shape[1]]
