"""JPEG through torchcodec or nvImageCodec, on a GPU where there is one: for hosts whose cores decode too slowly.

Never by default: a GPU's inverse transform and chroma upsampling are not libjpeg-turbo's, so pixels differ by a few
steps. On a machine without a GPU both decode with libjpeg-turbo. Pixels come to the host, where every other way in
has them too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from queue import Empty, SimpleQueue
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from clipfast.errors import UnsupportedError

Pixels = npt.NDArray[np.uint8]
# (H, W, 3) uint8 of a file, or None when the decoder cannot read it. Several threads may call one.
Decoder = Callable[[bytes], Pixels | None]

# What has to be installed for each.
JPEG_DECODERS: Final = {
    "torchcodec": "pip install 'torchcodec>=0.16'",
    "nvimagecodec": "pip install 'nvidia-nvimgcodec-cu13[nvjpeg]' (CUDA 12: nvidia-nvimgcodec-cu12)",
}


@cache
def jpeg_decoder(name: str) -> Decoder:
    """One of JPEG_DECODERS, its library loaded.

    Raises: UnsupportedError when the library is missing or does not load; the message says what to install.
    """
    module = "torchcodec.decoders" if name == "torchcodec" else "nvidia.nvimgcodec"
    try:
        library = import_module(module)
    except (ImportError, OSError, RuntimeError) as error:
        raise UnsupportedError(
            f"decode={name!r} cannot be served: {module} does not load ({error}); {JPEG_DECODERS[name]}"
        ) from None
    return _torchcodec(library) if name == "torchcodec" else _nvimagecodec(library)


def _torchcodec(library: Any) -> Decoder:
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def decode(data: bytes) -> Pixels | None:
        try:
            planes = library.decode_jpeg(data, mode="RGB", device=device)
        except (RuntimeError, ValueError):
            return None
        pixels: Pixels = planes.permute(1, 2, 0).contiguous().cpu().numpy()
        return pixels

    return decode


def _nvimagecodec(library: Any) -> Decoder:
    params = library.DecodeParams(apply_exif_orientation=False)
    options: dict[str, Any] = {"max_num_cpu_threads": 1}  # the caller's threads decode side by side
    if not torch.cuda.is_available():
        options["device_id"] = library.NVIMGCODEC_DEVICE_CPU_ONLY
        options["backends"] = [library.Backend(library.CPU_ONLY)]
    idle: SimpleQueue[Any] = SimpleQueue()  # a decoder is one thread's at a time

    def decode(data: bytes) -> Pixels | None:
        try:
            decoder = idle.get_nowait()
        except Empty:
            decoder = library.Decoder(**options)
        image = decoder.decode(data, params=params)
        idle.put(decoder)
        return None if image is None else np.ascontiguousarray(image.cpu())

    return decode
