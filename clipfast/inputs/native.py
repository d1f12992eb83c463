"""The C++ side of the inputs, where it was built: resize in csrc/cpu/resize, tokens in csrc/cpu/tokenizer.

Both have an equal in Python that serves without a compiler, so nothing here changes results, only their speed.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import numpy.typing as npt

from clipfast import environment
from clipfast.config import Interpolation
from clipfast.errors import UnsupportedError
from clipfast.inputs.geometry import Axis, ResizePlan

Pixels = npt.NDArray[np.uint8]

BUILT = importlib.util.find_spec("clipfast._native") is not None


def isa() -> str:
    """The instruction set to use: CLIPFAST_ISA, or the widest that this processor has.

    Raises: UnsupportedError when the processor lacks the one that CLIPFAST_ISA names.
    """
    from clipfast import _native

    asked, available = environment.isa(), _native.supported_isas()
    if asked == "auto":
        return str(available[-1])
    if asked not in available:
        raise UnsupportedError(
            f"CLIPFAST_ISA={asked}, but this processor has {', '.join(available)}"
        )
    return asked


def resize_crop(
    images: Pixels, plan: ResizePlan, interpolation: Interpolation, out: Pixels, *, planar: bool
) -> None:
    """Resize and crop images of one size into `out`, without the GIL.

    Args:
        images: (N, H, W, 3) or (N, H, W), C-contiguous.
        out: (N, 3, R, R) when planar, else (N, R, R, 3), C-contiguous; grey is written to all three channels.
    """
    from clipfast import _native

    channels = 3 if images.ndim == 4 else 1
    size = plan.vertical.length, plan.horizontal.length
    expected = (len(images), 3, *size) if planar else (len(images), *size, 3)
    assert images.flags.c_contiguous
    assert images.shape[1:3] == (plan.vertical.source, plan.horizontal.source)
    assert out.flags.c_contiguous
    assert out.shape == expected
    _native.resize_crop(
        (images.ctypes.data, len(images), images.strides[0], images.strides[1], channels),
        _axis(plan.horizontal),
        _axis(plan.vertical),
        plan.vertical_first,
        interpolation == "bilinear",
        (out.ctypes.data, out.strides[0], planar),
        isa(),
    )


def _axis(axis: Axis) -> tuple[int, float, float, int, int, int]:
    assert 0 <= axis.begin < axis.end <= axis.source
    return axis.source, axis.begin, axis.end, axis.resized, axis.start, axis.length
