"""Tensors as the C++ kernels take them: addresses and strides, after a check; and how many threads may run."""

from __future__ import annotations

import os

import torch

from clipfast.errors import InputError

Tensor = torch.Tensor
Matrix = tuple[int, int, int]
TypedMatrix = tuple[int, int, int, str]

DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
NO_MATRIX: TypedMatrix = (0, 0, 0, "float32")


def check_matrix(operation: str, tensor: Tensor, width: int | None = None) -> None:
    """Raises InputError unless the tensor is a matrix of that width which the kernels can read."""
    if tensor.dtype not in DTYPES or not tensor.is_cpu:
        raise InputError(
            f"{operation} reads float32, float16 or bfloat16 on cpu, got {tensor.dtype} on {tensor.device}",
            code="wrong_type",
        )
    expected = "E" if width is None else str(width)
    if (
        tensor.dim() != 2
        or (tensor.shape[1] > 1 and tensor.stride(1) != 1)
        or (width is not None and tensor.shape[1] != width)
    ):
        raise InputError(
            f"{operation} reads (rows, {expected}) with unit stride in the last axis, "
            f"got shape {tuple(tensor.shape)}, strides {tensor.stride()}",
            code="wrong_shape",
        )


def matrix(tensor: Tensor) -> Matrix:
    """(address, rows, row stride in bytes)."""
    return tensor.data_ptr(), tensor.shape[0], tensor.stride(0) * tensor.element_size()


def typed_matrix(tensor: Tensor | None) -> TypedMatrix:
    """And the dtype; zeros for None."""
    return NO_MATRIX if tensor is None else (*matrix(tensor), DTYPES[tensor.dtype])


_forked = False


def _note_fork() -> None:
    global _forked  # noqa: PLW0603  # the one fact about this process that only the fork knows
    _forked = True


os.register_at_fork(after_in_child=_note_fork)


def threads() -> int:
    """torch's thread count; 1 in a forked child, where libgomp's threads do not exist and a team would hang."""
    return 1 if _forked else torch.get_num_threads()
