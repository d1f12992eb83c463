"""One image of any kind to the (3, R, R) pixels of a tower."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clipfast.config import PreprocessConfig
from clipfast.inputs.arrays import is_array
from clipfast.inputs.decode import DecodeOptions, decode_image
from clipfast.inputs.resize import resize_crop

DEFAULT_OPTIONS = DecodeOptions()


def preprocess_image(
    image: object,
    config: PreprocessConfig,
    size: int,
    options: DecodeOptions = DEFAULT_OPTIONS,
) -> npt.NDArray[np.uint8]:
    """Decode, resize, centre-crop and convert to RGB one image.

    Args:
        image: a path, bytes, a binary file object, a PIL image, or a uint8 array or tensor (H, W, 3), (3, H, W)
            or (H, W).
        config: interpolation and resize mode (the normalisation is folded into the weights).
        size: rows and columns of the result, R.
    Returns: (3, R, R) uint8.
    Raises: InputError with a code and no index.
    """
    decoded = image if is_array(image) else decode_image(image, options)
    pixels = resize_crop(
        decoded, size, interpolation=config.interpolation, resize_mode=config.resize_mode
    )
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
