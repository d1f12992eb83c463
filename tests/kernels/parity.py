"""The rule of the kernels: no more than twice plain torch's error, both against float64, both printed."""

from __future__ import annotations

import torch

from tests.tolerances import KERNEL_ERROR_FACTOR

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Operands:
    """Random tensors drawn in order from one seed."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._generator = torch.Generator().manual_seed(20)

    def __call__(
        self, *shape: int, dtype: torch.dtype = torch.float32, std: float = 1.0
    ) -> torch.Tensor:
        return (torch.randn(shape, generator=self._generator) * std).to(self.device, dtype)

    def bytes(self, *shape: int) -> torch.Tensor:
        return torch.randint(0, 256, shape, generator=self._generator, dtype=torch.uint8).to(
            self.device
        )


def assert_parity(actual: torch.Tensor, exact: torch.Tensor, plain: torch.Tensor) -> None:
    """actual: the kernel's. exact: float64. plain: torch's in the kernel's dtypes."""
    assert actual.shape == exact.shape
    assert actual.dtype == plain.dtype
    assert torch.isfinite(actual).all(), "an output was not written, or is not finite"
    if actual.numel() == 0:
        return
    error = (actual.double() - exact).abs().max().item()
    of_torch = (plain.double() - exact).abs().max().item()
    floor = torch.finfo(actual.dtype).eps * exact.abs().max().item()
    print(f"error {error:.2e}, torch {of_torch:.2e}, one rounding {floor:.2e}")
    assert error <= KERNEL_ERROR_FACTOR * of_torch + floor


class Canary:
    """A matrix inside a larger buffer of NaN: `out` is where a kernel may write, the border is where it may not."""

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
        rows, columns = shape
        self._buffer = torch.full((rows + 4, columns + 32), torch.nan, dtype=dtype, device=device)
        self.out = self._buffer[2 : rows + 2, 16 : columns + 16]
        self._border = torch.ones_like(self._buffer, dtype=torch.bool)
        self._border[2 : rows + 2, 16 : columns + 16] = False

    def assert_alive(self) -> None:
        assert self._buffer[self._border].isnan().all(), "the kernel wrote outside its output"
        assert torch.isfinite(self.out).all(), "the kernel left a hole in its output"


def strided(x: torch.Tensor) -> torch.Tensor:
    """The same matrix with a row stride wider than its rows, surrounded by NaN."""
    wide = x.new_full((x.shape[0], x.shape[1] + 24), torch.nan)
    wide[:, 8 : x.shape[1] + 8] = x
    return wide[:, 8 : x.shape[1] + 8]
