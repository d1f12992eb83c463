"""Where the time of encoding goes: each stage of the pipeline run alone, one after another, on one batch."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

import torch

from clipfast.inputs import DecodeOptions, resize_crop
from clipfast.inputs.decode import decode_image

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
    times = StageTimes(model.device)
    size, preprocess = model.config.vision.image_size, model.config.preprocess
    if isinstance(images, list):
        options = DecodeOptions()
        decoded = times.measure(
            "decode", lambda: [decode_image(image, options) for image in images]
        )
        resized = times.measure(
            "resize",
            lambda: [
                torch.from_numpy(
                    resize_crop(
                        image,
                        size,
                        interpolation=preprocess.interpolation,
                        resize_mode=preprocess.resize_mode,
                    ).transpose(2, 0, 1)
                )
                for image in decoded
            ],
        )
        pixels = times.measure("copy", lambda: torch.stack(resized).to(model.device))
    else:
        pixels = times.measure("copy", lambda: images.to(model.device))
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
