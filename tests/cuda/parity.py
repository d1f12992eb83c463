"""The parity rule: error(kernel) <= 2 x error(plain torch, same dtype) + one rounding, both printed."""

from __future__ import annotations

import torch

from tests.tolerances import KERNEL_ERROR_FACTOR


def assert_parity(
    kernel: torch.Tensor, plain: torch.Tensor, truth: torch.Tensor, eps: float | None = None
) -> None:
    """kernel and plain are two answers; truth is the float64 one. eps: of a rounding, that of kernel's dtype."""
    assert kernel.shape == truth.shape
    assert torch.isfinite(kernel).all(), "the output has holes or is not finite"
    error = (kernel.double() - truth).abs().max().item() if kernel.numel() else 0.0
    plain_error = (plain.double() - truth).abs().max().item() if kernel.numel() else 0.0
    largest = truth.abs().max().item() if kernel.numel() else 0.0
    rounding = torch.finfo(kernel.dtype).eps if eps is None else eps
    limit = KERNEL_ERROR_FACTOR * plain_error + rounding * largest
    print(f"error {error:.3g}, plain torch {plain_error:.3g}, limit {limit:.3g}")
    assert error <= limit
