"""Where the time of encoding goes: each stage of the pipeline run alone, one after another, on one batch."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from clipfast.inputs import DecodeOptions
from clipfast.inputs.decode import decode_image
from clipfast.inputs.preprocess import resize_decoded

if TYPE_CHECKING:
    from clipfast.api import Model

Result = TypeVar("Result")
_REPEATS = 5


class StageTimes:
    """Milliseconds a stage, the median of the repeats. Work queued on a GPU is waited for."""

    def __init__(self, device: torch.device) -> None:
        self.milliseconds: dict[str, float] = {}
        self._device = device

    def measure(self, name: str, stage: Callable[[], Result]) -> Result:
        """Run `stage` once to warm up and a few times measured; returns its last result."""
        stage()
        times = []
        for _ in range(_REPEATS):
            self._wait()
            start = perf_counter()
            result = stage()
            self._wait()
            times.append(perf_counter() - start)
        self.milliseconds[name] = 1e3 * median(times)
        return result

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def image_stages(model: Model, images: torch.Tensor | list[bytes]) -> dict[str, float]:
    """Milliseconds a batch of decode, resize (one thread each), copy (to the model's device) and compute.

    Args:
        images: encoded files, or (B, 3, R, R) uint8 pixels, which skip decode and resize.
    """
    times, config = StageTimes(model.device), model.config
    if isinstance(images, list):
        size, preprocess, options = config.vision.image_size, config.preprocess, DecodeOptions()
        decoded = times.measure(
            "decode", lambda: [decode_image(image, options, size) for image in images]
        )
        rows = np.empty((len(images), 3, size, size), np.uint8)

        def resize() -> None:
            for image, row in zip(decoded, rows, strict=True):
                resize_decoded(image, preprocess, size, row)

        times.measure("resize", resize)
        images = torch.from_numpy(rows)
    pixels = times.measure("copy", lambda: images.to(model.device, copy=True))
    times.measure(
        "compute",
        lambda: model.encode_images(pixels, batch_size=len(pixels), output_device=model.device),
    )
    return times.milliseconds


def text_stages(model: Model, texts: list[str]) -> dict[str, float]:
    """Milliseconds a batch of tokenize, and of compute with the copy that it contains."""
    times = StageTimes(model.device)
    times.measure("tokenize", lambda: model.tokenize(texts))
    both = StageTimes(model.device)
    both.measure("all", lambda: model.encode_texts(texts, output_device=model.device))
    times.milliseconds["compute"] = both.milliseconds["all"] - times.milliseconds["tokenize"]
    return times.milliseconds
