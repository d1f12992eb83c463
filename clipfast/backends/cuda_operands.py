"""What the CUDA kernels ask of their operands, each refusal with what was got and what was expected.

The kernels read 16 bytes at a time: rows begin at multiples of 16 bytes. Checks look at dtype, shape, stride and
alignment first and at the device last, so that they can be tested where there is no GPU.
"""

from __future__ import annotations

import torch

from clipfast.errors import ConfigurationError

Tensor = torch.Tensor
Rows = tuple[int, int, int, int]
Numbers = tuple[int, bool]

HALVES = (torch.float16, torch.bfloat16)
ROW_BYTES = 16
MOST_ROWS = 2**31 - 256  # row numbers are 32 bits


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def check_rows(
    what: str,
    x: Tensor,
    *,
    dtypes: tuple[torch.dtype, ...] = HALVES,
    width: int | None = None,
    alignment: int = ROW_BYTES,
) -> Rows:
    """A matrix as the kernels take it: (address, row stride in elements, rows, width).

    Raises:
        ConfigurationError: not (rows, width) of one of the dtypes, with unit stride in the last axis and aligned rows.
    """
    check_dtype(what, x, dtypes)
    if x.ndim != 2 or (width is not None and x.shape[1] != width):
        expected = "(rows, columns)" if width is None else f"(rows, {width})"
        raise ConfigurationError(f"{what} has shape {tuple(x.shape)}; expected {expected}")
    if x.shape[0] > MOST_ROWS:
        raise ConfigurationError(f"{what} has {x.shape[0]} rows; expected at most {MOST_ROWS}")
    if x.shape[1] > 1 and x.stride(1) != 1:
        raise ConfigurationError(
            f"{what} has stride {x.stride(1)} in its last axis; expected 1: call .contiguous()"
        )
    stride = x.stride(0) if x.shape[0] > 1 else x.shape[1]
    if x.data_ptr() % alignment or stride * x.element_size() % alignment:
        raise ConfigurationError(
            f"{what} has rows of {stride * x.element_size()} bytes from address {x.data_ptr():#x}; expected both to be"
            f" multiples of {alignment}: pad the rows, or call .clone()"
        )
    return x.data_ptr(), stride, x.shape[0], x.shape[1]


def check_dtype(what: str, x: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    if x.dtype not in dtypes:
        expected = " or ".join(map(name_of, dtypes))
        raise ConfigurationError(f"{what} is {name_of(x.dtype)}; expected {expected}")


def check_offsets(what: str, x: Tensor) -> int:
    """The address of (count,) int32 numbers, one after another.

    Raises:
        ConfigurationError: they are not.
    """
    check_dtype(what, x, (torch.int32,))
    if x.ndim != 1:
        raise ConfigurationError(f"{what} has shape {tuple(x.shape)}; expected (count,)")
    if not x.is_contiguous():
        raise ConfigurationError(f"{what} has stride {x.stride(0)}; expected 1: call .contiguous()")
    return x.data_ptr()


def check_numbers(what: str, x: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Numbers:
    """(address, whether float32) of contiguous numbers in the matrices' dtype or in float32.

    Raises:
        ConfigurationError: another dtype, shape or stride.
    """
    check_dtype(what, x, (dtype, torch.float32))
    if tuple(x.shape) != shape:
        raise ConfigurationError(f"{what} has shape {tuple(x.shape)}; expected {shape}")
    if not x.is_contiguous():
        raise ConfigurationError(
            f"{what} has strides {x.stride()}; expected contiguous numbers: call .contiguous()"
        )
    if x.data_ptr() % 8:
        raise ConfigurationError(
            f"{what} begins at address {x.data_ptr():#x}; expected a multiple of 8: call .clone()"
        )
    return x.data_ptr(), x.dtype == torch.float32


def check_device(**tensors: Tensor | None) -> torch.device:
    """The one CUDA device of the tensors that are given.

    Raises:
        ConfigurationError: several devices, or not a CUDA device.
    """
    devices = {name: x.device for name, x in tensors.items() if x is not None}
    distinct = set(devices.values())
    if len(distinct) > 1:
        got = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ConfigurationError(f"got {got}; expected one device")
    device = distinct.pop()
    if device.type != "cuda":
        raise ConfigurationError(f"{next(iter(devices))} is on {device}; expected a CUDA device")
    return device


def check_sequences(
    rows: int, cu_seqlens: Tensor | None, length: int | None
) -> tuple[int, int, int]:
    """(address of cu_seqlens or 0, number of sequences, length or 0); exactly one of the two describes the rows.

    Raises:
        ConfigurationError: both or none, or rows that no number of such sequences has.
    """
    if (cu_seqlens is None) == (length is None):
        raise ConfigurationError("got cu_seqlens and length, or neither; expected exactly one")
    if cu_seqlens is not None:
        address = check_offsets("cu_seqlens", cu_seqlens)
        if not len(cu_seqlens):
            raise ConfigurationError("cu_seqlens is empty; expected sequences + 1 offsets")
        return address, len(cu_seqlens) - 1, 0
    assert length is not None
    if length < 1 or rows % length:
        raise ConfigurationError(
            f"got {rows} rows and length={length}; expected rows % length == 0"
        )
    return 0, rows // length, length


def check_cosines(queries: Tensor, gallery: Tensor, what: str) -> tuple[Rows, Rows, torch.device]:
    """Both sides of a similarity, and their device. gallery: the queries' dtype, or int8.

    Raises:
        ConfigurationError: another dtype, shape, stride, alignment or device.
    """
    left = check_rows("queries", queries)
    right = check_rows(what, gallery, dtypes=(queries.dtype, torch.int8), width=queries.shape[1])
    return left, right, check_device(**{"queries": queries, what: gallery})


def check_image(index: int, image: Tensor) -> None:
    """An image of a ragged batch.

    Raises:
        ConfigurationError: not (H, W, 3) uint8 with the pixels of a row one after another.
    """
    check_dtype(f"image {index}", image, (torch.uint8,))
    if image.ndim != 3 or image.shape[2] != 3 or not image.numel():
        raise ConfigurationError(
            f"image {index} has shape {tuple(image.shape)}; expected (H, W, 3), H and W at least 1"
        )
    if image.stride()[1:] != (3, 1):
        raise ConfigurationError(
            f"image {index} has strides {image.stride()}; expected (..., 3, 1): call .contiguous()"
        )


def check_pixels(pixels: Tensor) -> tuple[int, int, int]:
    """Strides of images, channels and rows, in bytes.

    Raises:
        ConfigurationError: not (B, 3, R, R).
    """
    if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.shape[2] != pixels.shape[3]:
        raise ConfigurationError(f"pixels have shape {tuple(pixels.shape)}; expected (B, 3, R, R)")
    image, channel, row, _ = pixels.stride()
    return image, channel, row


def reads_pixels(pixels: Tensor, patch: int) -> bool:
    """Whether lines of a patch begin where the kernel for it can read: 2 bytes at a time for 14, else 16."""
    step = 2 if patch == 14 else 16
    return (
        pixels.dtype == torch.uint8
        and pixels.stride(-1) == 1
        and pixels.data_ptr() % step == 0
        and all(stride % step == 0 for stride in pixels.stride()[:-1])
    )
