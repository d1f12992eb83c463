"""Resize, centre crop, RGB: the reference transform's pixels at a cost bounded by the image and the target.

The reference resizes the whole image before it crops, so a 1 x 60000 image takes 9 GB there. Here images whose resized
form would be large are computed for the cropped region only, with the same bits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipfast.config import Interpolation, ResizeMode
from clipfast.errors import ConfigurationError, InputError
from clipfast.inputs import native
from clipfast.inputs.arrays import as_pixels
from clipfast.inputs.decode import EXACT, decode_image
from clipfast.inputs.geometry import Axis, ResizePlan, plan_resize
from clipfast.inputs.resample import needed_box, resample_crop

Pixels = npt.NDArray[np.uint8]

_WHOLE_RESIZE_PIXELS = 4_000_000
_NEAREST_STEPS = 65_536
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_NEAREST_MODES = ("1", "P")
_PREMULTIPLIED = {"RGBA": "RGBa", "LA": "La"}
_WIDE_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")


def resize_crop(
    image: object,
    size: int,
    *,
    interpolation: Interpolation = "bicubic",
    resize_mode: ResizeMode = "shortest",
) -> Pixels:
    """The (size, size, 3) uint8 pixels that a CLIP tower of that input size sees.

    Equals the reference transform's Resize, CenterCrop and convert("RGB"), in this order, bit for bit under Pillow 13:
    palette and 1-bit images are resized by nearest neighbour, alpha is premultiplied and then dropped.

    Args:
        image: a PIL image of any mode, or a uint8 array or tensor (H, W, 3), (3, H, W) or (H, W).
        size: rows and columns of the result, R.
        interpolation: "bicubic" (a = -0.5) or "bilinear", both antialiased.
        resize_mode: "shortest" resizes the shorter side to `size` and crops the centre; "squash" resizes both sides.
    Raises: InputError wrong_type, wrong_shape, or why a lazily opened image cannot be decoded; ConfigurationError when
        an option is not one of the above.
    """
    if size < 1 or interpolation not in _FILTERS or resize_mode not in ("shortest", "squash"):
        raise ConfigurationError(
            f"got size={size}, interpolation={interpolation!r}, resize_mode={resize_mode!r}; expected a size of at "
            'least 1, "bicubic" or "bilinear", and "shortest" or "squash"'
        )
    if isinstance(image, Image.Image):
        source, width, height, _ = decode_image(image, EXACT, size)
    else:
        source = as_pixels(image)
        height, width = source.shape[:2]
    out = np.empty((size, size, 3), np.uint8)
    resize_into(source, plan_resize(width, height, size, resize_mode), interpolation, out)
    return out


def resize_into(
    image: Image.Image | Pixels,
    plan: ResizePlan,
    interpolation: Interpolation,
    out: Pixels,
    *,
    planar: bool = False,
) -> None:
    """Write the resized and cropped RGB pixels of `image` into `out`.

    Args:
        image: a PIL image, or uint8 (H, W, 3) or (H, W), C-contiguous.
        out: (R, R, 3) uint8, or (3, R, R) when planar.
    Raises: InputError wrong_type when the image's mode has no RGB form.
    """
    if native.BUILT and (isinstance(image, np.ndarray) or image.mode in ("RGB", "L")):
        native.resize_crop(np.asarray(image)[None], plan, interpolation, out[None], planar=planar)
        return
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    pixels = _through_pillow(image, plan, interpolation)
    out[...] = pixels.transpose(2, 0, 1) if planar else pixels


def resize_many(
    images: Pixels, plan: ResizePlan, interpolation: Interpolation, out: Pixels
) -> None:
    """`resize_into` for (N, H, W, 3) images of one size; out: (N, 3, R, R) uint8."""
    if native.BUILT:
        native.resize_crop(images, plan, interpolation, out, planar=True)
        return
    for image, row in zip(images, out, strict=True):
        resize_into(image, plan, interpolation, row, planar=True)


def _through_pillow(image: Image.Image, plan: ResizePlan, interpolation: Interpolation) -> Pixels:
    if plan.resized_pixels <= _WHOLE_RESIZE_PIXELS:
        result = _resize_whole(image, plan, _FILTERS[interpolation])
    elif image.mode in _NEAREST_MODES:
        return _crop_nearest(image, plan)
    else:
        result = _resize_region(image, plan, interpolation)
    try:
        return np.asarray(result.convert("RGB"))
    except ValueError as error:
        raise InputError(
            f"a PIL image of mode {image.mode!r} has no RGB form ({error}); convert it first",
            code="wrong_type",
        ) from None


def _resize_whole(image: Image.Image, plan: ResizePlan, resample: Image.Resampling) -> Image.Image:
    horizontal, vertical = plan.horizontal, plan.vertical
    if horizontal.changes or vertical.changes:
        image = image.resize((horizontal.resized, vertical.resized), resample, plan.box)
    left, top = horizontal.start, vertical.start
    return image.crop((left, top, left + horizontal.length, top + vertical.length))


def _resize_region(
    image: Image.Image, plan: ResizePlan, interpolation: Interpolation
) -> Image.Image:
    """The cropped region alone, in the image's own mode."""
    mode = image.mode
    region = image.crop(needed_box(plan, interpolation))
    if mode in _WIDE_MODES:
        # Pillow resamples I;16B in the machine's byte order, although the mode is big-endian.
        wide = np.asarray(region)
        cropped = resample_crop(wide.view(wide.dtype.newbyteorder("=")), plan, interpolation)
        return Image.frombytes(mode, cropped.shape[::-1], cropped.tobytes())
    region = region.convert(_PREMULTIPLIED.get(mode, mode))
    bands = [resample_crop(np.asarray(band), plan, interpolation) for band in region.split()]
    if len(bands) == 1:
        return Image.fromarray(bands[0])
    merged = Image.merge(region.mode, [Image.fromarray(band) for band in bands])
    if image.palette is not None:
        merged.palette = image.palette.copy()
    return merged.convert(mode)


def _crop_nearest(image: Image.Image, plan: ResizePlan) -> Pixels:
    columns, rows = _nearest_source(plan.horizontal), _nearest_source(plan.vertical)
    left, top = int(columns[0]), int(rows[0])
    region = image.crop((left, top, int(columns[-1]) + 1, int(rows[-1]) + 1)).convert("RGB")
    return np.ascontiguousarray(np.asarray(region)[np.ix_(rows - top, columns - left)])


def _nearest_source(axis: Axis) -> npt.NDArray[np.int64]:
    """The source pixel of each kept output: Pillow walks there in float64 steps of `scale` from begin + scale / 2."""
    position = np.float64(axis.begin + axis.scale * 0.5)
    for start in range(0, axis.start, _NEAREST_STEPS):
        steps = np.full(min(_NEAREST_STEPS, axis.start - start) + 1, axis.scale)
        steps[0] = position
        position = np.cumsum(steps)[-1]
    steps = np.full(axis.length, axis.scale)
    steps[0] = position
    return np.minimum(np.cumsum(steps).astype(np.int64), axis.source - 1)
