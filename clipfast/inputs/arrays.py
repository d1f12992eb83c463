"""Array inputs: numpy, torch, or anything that speaks DLPack or the numpy array protocol."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from clipfast.errors import InputError

Pixels = npt.NDArray[np.uint8]


def is_array(source: object) -> bool:
    """Whether `source` is an array or tensor (PIL images are not)."""
    return isinstance(source, np.ndarray | torch.Tensor) or hasattr(source, "__dlpack__")


def is_floating(source: object) -> bool:
    """Whether the array or tensor holds floating-point numbers: pixels that are normalised already.

    Raises: InputError as `as_tensor`.
    """
    if isinstance(source, np.ndarray):
        return bool(source.dtype.kind == "f")
    return as_tensor(source).is_floating_point()


def as_tensor(source: object) -> torch.Tensor:
    """`source` as a tensor on its own device, sharing memory where torch can.

    Raises: InputError wrong_type for dtypes that torch does not have (objects, strings, big-endian numbers) and for
        tensors without dense data.
    """
    if isinstance(source, torch.Tensor):
        if source.is_meta or source.layout is not torch.strided:
            raise InputError(
                f"{_describe(source)} on {source.device} ({source.layout}) holds no plain pixels; pass a dense tensor",
                code="wrong_type",
            )
        return source.detach()
    try:
        if isinstance(source, np.ndarray):
            # torch has neither negative strides nor read-only memory.
            usable = source.flags.writeable and all(stride >= 0 for stride in source.strides)
            return torch.from_numpy(source if usable else source.copy())
        return torch.utils.dlpack.from_dlpack(source)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise InputError(
            f"{_describe(source)} cannot become a tensor ({error}); pass uint8 pixels",
            code="wrong_type",
        ) from None


def as_pixels(source: object) -> Pixels:
    """One image as (H, W, 3) or (H, W) uint8 in host memory.

    Args:
        source: uint8 (H, W, 3), (3, H, W) or (H, W); a last axis of 3 means channels last.
    Raises: InputError wrong_type when it is no uint8 array, wrong_shape when its shape is another, or empty.
    """
    if not is_array(source):
        raise InputError(
            f"got {type(source).__name__}, expected a path, bytes, a file object, a PIL image or a uint8 array",
            code="wrong_type",
        )
    array: Any = source if isinstance(source, np.ndarray) else as_tensor(source)
    if array.dtype not in (np.dtype(np.uint8), torch.uint8):
        raise InputError(
            f"got {_describe(source)}, expected uint8 pixels in [0, 255]; convert them, "
            "e.g. (255 * image).round().astype('uint8') for values in [0, 1]",
            code="wrong_type",
        )
    pixels = array if isinstance(array, np.ndarray) else array.cpu().numpy()
    if pixels.ndim == 3 and pixels.shape[2] != 3 and pixels.shape[0] == 3:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.size == 0 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise InputError(
            f"got {_describe(source)}, expected uint8 (H, W, 3), (3, H, W) or (H, W) with at least one pixel",
            code="wrong_shape",
        )
    return np.ascontiguousarray(pixels)


def _describe(source: object) -> str:
    dtype, shape = getattr(source, "dtype", "?"), tuple(getattr(source, "shape", ()))
    return f"{type(source).__name__} of {dtype} {shape}"
