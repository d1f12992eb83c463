"""Whole batches in one tensor: passed on when they are what the tower reads, else resized where they live."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from clipfast.config import PreprocessConfig
from clipfast.errors import InputError
from clipfast.inputs.device_resize import resize_crop_tensor
from clipfast.inputs.geometry import plan_resize
from clipfast.inputs.pipeline import windows
from clipfast.inputs.resize import resize_many
from clipfast.inputs.unresized import Unresized

# pixels, positions in the input, failures
Part = tuple[torch.Tensor, list[int], list[InputError]]

# 8-bit pixels normalise to at most 2.8 in magnitude for every published mean and std.
_LARGEST_NORMALIZED = 32.0


def tensor_batches(batch: torch.Tensor, size: int, batch_size: int) -> Iterator[Part]:
    """At most `batch_size` images at a time of a batch that needs no resizing, on its device.

    Args:
        batch: uint8 (N, R, R, 3) or (N, 3, R, R); floating point (N, 3, R, R) or (3, R, R).
    Raises: InputError wrong_shape, before the first batch.
    """
    if batch.is_floating_point():
        if batch.ndim == 3:
            batch = batch[None]
        if batch.shape[1:] != (3, size, size):
            raise _wrong_shape(tuple(batch.shape), size)
        return _checked_slices(batch, batch_size)
    if batch.shape[3] == 3:
        batch = batch.permute(0, 3, 1, 2)
    return (
        (batch[at].contiguous(), [*_positions(at)], []) for at in _ranges(len(batch), batch_size)
    )


def resized_batches(
    batch: torch.Tensor,
    config: PreprocessConfig,
    size: int,
    batch_size: int,
    workers: int,
    allocate: Callable[[int], torch.Tensor] | None = None,
) -> Iterator[Part]:
    """At most `batch_size` images at a time of a uint8 (N, H, W, 3) or (N, 3, H, W) batch, resized on its device.

    allocate: as in `windows`, for a batch on the host.
    """
    if batch.shape[3] != 3:
        batch = batch.permute(0, 2, 3, 1)
    plan = plan_resize(batch.shape[2], batch.shape[1], size, config.resize_mode)
    if batch.device.type != "cpu":
        return (
            (resize_crop_tensor(batch[at], plan, config.interpolation), [*_positions(at)], [])
            for at in _ranges(len(batch), batch_size)
        )

    def work(positions: Sequence[int], rows: torch.Tensor, _: Unresized | None) -> list[None]:
        images = batch[positions[0] : positions[-1] + 1].contiguous()
        resize_many(images.numpy(), plan, config.interpolation, rows.numpy())
        return [None] * len(positions)

    steps = windows(
        range(len(batch)),
        work,
        batch_size=batch_size,
        size=size,
        workers=workers,
        allocate=allocate,
    )
    return ((step.rows, [*range(step.start, step.start + len(step.rows))], []) for step in steps)


def _ranges(count: int, batch_size: int) -> Iterator[slice]:
    return (slice(at, min(at + batch_size, count)) for at in range(0, count, batch_size))


def _positions(at: slice) -> range:
    return range(at.start, at.stop)


def _checked_slices(batch: torch.Tensor, batch_size: int) -> Iterator[Part]:
    for at in _ranges(len(batch), batch_size):
        pixels, indices = batch[at], [*_positions(at)]
        largest = pixels.abs().flatten(1).amax(1).tolist()  # NaN wins a maximum
        failures = [
            _value_error(value).at(index)
            for index, value in zip(indices, largest, strict=True)
            if not value <= _LARGEST_NORMALIZED
        ]
        if failures:
            bad = {failure.index for failure in failures}
            indices = [index for index in indices if index not in bad]
            pixels = pixels[[index - at.start for index in indices]]
        yield pixels.contiguous(), indices, failures


def check_normalized(image: torch.Tensor, size: int) -> torch.Tensor:
    """`image`, one normalised (3, R, R) image. Raises: InputError wrong_shape, non_finite, wrong_type."""
    if image.shape != (3, size, size):
        raise _wrong_shape(tuple(image.shape), size)
    largest = float(image.abs().amax())
    if not largest <= _LARGEST_NORMALIZED:
        raise _value_error(largest)
    return image


def _wrong_shape(shape: tuple[int, ...], size: int) -> InputError:
    return InputError(
        f"got floating-point pixels of shape {shape}, expected (3, {size}, {size}) or (N, 3, {size}, {size}), "
        "normalised already; pass uint8 pixels to have them resized and normalised",
        code="wrong_shape",
    )


def _value_error(largest: float) -> InputError:
    if largest == float("inf") or largest != largest:
        return InputError(
            "the image holds NaN or infinity, expected finite pixels", code="non_finite"
        )
    return InputError(
        f"floating-point pixels reach {largest:.4g}, so they are not normalised; pass uint8 pixels in [0, 255], or "
        "subtract the mean and divide by the standard deviation",
        code="wrong_type",
    )
