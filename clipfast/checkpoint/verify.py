"""Values that no trained model has: NaN, infinity, and a logit scale that is not a log scale."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch

from clipfast.checkpoint.layouts import CanonicalTensors, summary
from clipfast.errors import CheckpointError

# For each width: the integer types of the same size, and the exponent mask, above which lie infinity and NaN.
_BITS: dict[torch.dtype, tuple[torch.dtype, type[np.signedinteger], type[np.unsignedinteger], int]] = {
    torch.float16: (torch.int16, np.int16, np.uint16, 0x7C00),
    torch.bfloat16: (torch.int16, np.int16, np.uint16, 0x7F80),
    torch.float32: (torch.int32, np.int32, np.uint32, 0x7F800000),
    torch.float64: (torch.int64, np.int64, np.uint64, 0x7FF0000000000000),
}  # fmt: skip
_CHUNK_BYTES = 256 * 1024  # the second maximum finds it in the cache
_LOG_SCALE_LIMITS = (math.log(1e-3), math.log(200.0))


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether no element is NaN or infinite, in one pass over memory and without temporaries.

    As integers, non-finite values are those from the exponent mask up (positive), and those from the mask with the
    sign bit up (negative, read unsigned): two integer maxima, which run at the speed of memory on one thread.
    """
    view, signed, unsigned, mask = _BITS[tensor.dtype]
    elements: npt.NDArray[np.signedinteger] = tensor.contiguous().view(view).reshape(-1).numpy()
    negative_mask = mask + (1 << (8 * tensor.element_size() - 1))
    step = _CHUNK_BYTES // tensor.element_size()
    for start in range(0, elements.size, step):
        chunk = elements[start : start + step]
        if chunk.view(signed).max() >= mask or chunk.view(unsigned).max() >= negative_mask:
            return False
    return True


def check_values(tensors: CanonicalTensors) -> None:
    """Raise CheckpointError, without a file name, for tensors that cannot be weights, listing them.

    Refused: dtypes that are not floating point, NaN or infinite elements, a logit scale outside [0.001, 200].
    """
    wrong = [f"{name} is {part.dtype}" for name, part in _parts(tensors) if part.dtype not in _BITS]
    if wrong:
        raise CheckpointError(f"expected floating-point weights: {summary(wrong)}")
    broken = [name for name, part in _parts(tensors) if part.numel() and not is_finite(part)]
    if broken:
        raise CheckpointError(
            f"NaN or infinite weights in {summary(broken)}; the file is damaged, or training diverged"
        )
    scale = float(tensors["logit_scale"])
    low, high = _LOG_SCALE_LIMITS
    if not low <= scale <= high:
        raise CheckpointError(
            f"logit_scale is {scale:g}, expected the log of a scale between 0.001 and 200 (OpenAI's is ln 100 = 4.605)"
        )


def _parts(tensors: CanonicalTensors) -> Iterable[tuple[str, torch.Tensor]]:
    return ((name, part) for name in tensors for part in tensors.parts(name))
