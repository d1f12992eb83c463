"""Batches that are pixels already: uint8 of the tower's size, or normalised floating point."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from clipfast.errors import InputError

# 8-bit pixels normalise to at most 2.8 in magnitude for every published mean and std.
_LARGEST_NORMALIZED = 32.0


def tensor_batches(
    batch: torch.Tensor, size: int, batch_size: int
) -> Iterator[tuple[torch.Tensor, list[int], list[InputError]]]:
    """(pixels, indices, failures) of at most `batch_size` images, on the batch's device.

    Args:
        batch: uint8 (N, R, R, 3) or (N, 3, R, R); floating point (N, 3, R, R) or (3, R, R).
    Raises: InputError wrong_shape, before the first batch.
    """
    if batch.is_floating_point():
        if batch.ndim == 3:
            batch = batch[None]
        if batch.shape[1:] != (3, size, size):
            raise _wrong_shape(tuple(batch.shape), size)
    elif batch.shape[1:] != (3, size, size) or batch.shape[3] == 3:
        batch = batch.permute(0, 3, 1, 2)
    return _slices(batch, batch_size)


def _slices(
    batch: torch.Tensor, batch_size: int
) -> Iterator[tuple[torch.Tensor, list[int], list[InputError]]]:
    for start in range(0, len(batch), batch_size):
        pixels = batch[start : start + batch_size]
        indices = list(range(start, start + len(pixels)))
        if not pixels.is_floating_point():
            yield pixels.contiguous(), indices, []
            continue
        largest = pixels.abs().flatten(1).amax(1)  # NaN wins a maximum
        failures = [
            _value_error(value).at(index)
            for index, value in zip(indices, largest.tolist(), strict=True)
            if not value <= _LARGEST_NORMALIZED
        ]
        if failures:
            bad = {failure.index for failure in failures}
            indices = [index for index in indices if index not in bad]
            pixels = pixels[[index - start for index in indices]]
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
