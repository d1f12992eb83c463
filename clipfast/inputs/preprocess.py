"""One image of any kind to the (3, R, R) pixels of a tower."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clipfast.config import PreprocessConfig
from clipfast.inputs.arrays import as_pixels, is_array
from clipfast.inputs.decode import EXACT, Decoded, DecodeOptions, decode_image
from clipfast.inputs.geometry import plan_resize
from clipfast.inputs.resize import resize_into

Pixels = npt.NDArray[np.uint8]


def preprocess_image(
    image: object,
    config: PreprocessConfig,
    size: int,
    options: DecodeOptions = EXACT,
) -> Pixels:
    """Decode, resize, centre-crop and convert to RGB one image.

    Args:
        image: a path, bytes, a binary file object, a PIL image, or a uint8 array or tensor (H, W, 3), (3, H, W)
            or (H, W).
        config: interpolation and resize mode (the normalisation is folded into the weights).
        size: rows and columns of the result, R.
    Returns: (3, R, R) uint8.
    Raises: InputError with a code and no index.
    """
    out = np.empty((3, size, size), np.uint8)
    preprocess_into(image, config, size, options, out)
    return out


def preprocess_into(
    image: object, config: PreprocessConfig, size: int, options: DecodeOptions, out: Pixels
) -> None:
    """`preprocess_image` into `out`, (3, R, R) and C-contiguous."""
    resize_decoded(decode_any(image, options, size), config, size, out)


def decode_any(image: object, options: DecodeOptions, size: int) -> Decoded:
    """The pixels of an image of any kind that `preprocess_image` takes. Raises: InputError."""
    if is_array(image):
        array = as_pixels(image)
        return Decoded(array, array.shape[1], array.shape[0])
    return decode_image(image, options, size)


def resize_decoded(decoded: Decoded, config: PreprocessConfig, size: int, out: Pixels) -> None:
    """Resize, centre-crop and convert to RGB what `decode_image` gave, into `out`, (3, R, R) and C-contiguous."""
    pixels = decoded.pixels
    plan = plan_resize(decoded.width, decoded.height, size, config.resize_mode)
    if isinstance(pixels, np.ndarray) and decoded.box is not None:
        plan = plan.within(decoded.box, pixels.shape[1], pixels.shape[0])
    resize_into(pixels, plan, config.interpolation, out, planar=True)
