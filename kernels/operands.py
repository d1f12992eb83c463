"""What the kernels ask of their operands, each refusal with what was got and what was expected."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from clipfast.errors import ConfigurationError

FLOATS = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class LinearOperands:
    """What `linear` was given, checked, and where its results go: y, copy (M, N), sums (M, 2P) for P parts of a row."""

    y: torch.Tensor
    copy: torch.Tensor | None
    sums: torch.Tensor | None
    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    residual: torch.Tensor | None
    row_sums: torch.Tensor | None
    activation: str | None
    eps: float


def check_matrix(
    name: str, x: torch.Tensor | None, shape: tuple[int | None, int | None] = (None, None)
) -> tuple[int, int]:
    """The shape of a matrix whose last stride is 1, (0, 0) for None; None in `shape` accepts any size."""
    if x is None:
        return 0, 0
    matches = x.ndim == 2 and all(
        want in (None, got) for want, got in zip(shape, x.shape, strict=True)
    )
    if not matches:
        expected = tuple("any" if size is None else size for size in shape)
        raise ConfigurationError(f"{name} has shape {tuple(x.shape)}; expected {expected}")
    if x.shape[1] > 1 and x.stride(1) != 1:
        raise ConfigurationError(
            f"{name} has strides {x.stride()}; expected the last one to be 1: pass a contiguous copy"
        )
    return x.shape[0], x.shape[1]


def check_vector(name: str, x: torch.Tensor | None, size: int) -> None:
    """A contiguous vector of `size`, or None."""
    if x is None:
        return
    if x.shape != (size,):
        raise ConfigurationError(f"{name} has shape {tuple(x.shape)}; expected ({size},)")
    if not x.is_contiguous():
        raise ConfigurationError(f"{name} has stride {x.stride(0)}; expected a contiguous vector")


def flat_output(
    out: torch.Tensor | None, like: torch.Tensor, shape: tuple[int, int], dtype: torch.dtype
) -> torch.Tensor:
    """`out` once it is checked, else a fresh matrix of this shape and dtype beside `like`."""
    if out is None:
        return torch.empty(shape, dtype=dtype, device=like.device)
    check_matrix("out", out, shape)
    if out.dtype != dtype:
        raise ConfigurationError(f"out has dtype {out.dtype}; expected {dtype}")
    return out


def unsupported_dtype(dtype: torch.dtype, architecture: int) -> str | None:
    """None when the kernels compute in this dtype on this architecture, else the sentence why not."""
    if architecture < 80:
        return f"the kernels need compute capability 8.0 or newer, not {architecture / 10:.1f}"
    if dtype not in FLOATS:
        return f"the kernels compute in {', '.join(map(str, FLOATS))}, not {dtype}"
    return None


def has_aligned_rows(x: torch.Tensor | None) -> bool:
    """Whether each row starts on 16 bytes, which is what a tensor descriptor can carry."""
    if x is None:
        return True
    return x.data_ptr() % 16 == 0 and x.stride(0) * x.dtype.itemsize % 16 == 0


def described(matrix: torch.Tensor | None, block: tuple[int, int]) -> TensorDescriptor | None:
    """The matrix as TMA sees it, in blocks."""
    return None if matrix is None else TensorDescriptor.from_tensor(matrix, list(block))


def row_stride(x: torch.Tensor | None) -> int:
    """Elements from row to row; 0 where there is no matrix."""
    return 0 if x is None else x.stride(0)
