"""Decoded images of any sizes in memory of a fixed size, for the consumer of a batch to resize."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Place:
    """Where an image lies: height x width pixels of three bytes from byte `start` on."""

    start: int
    height: int
    width: int

    def of(self, memory: torch.Tensor) -> torch.Tensor:
        """(height, width, 3) uint8, contiguous. memory: (bytes,) uint8 on any device."""
        end = self.start + 3 * self.height * self.width
        return memory[self.start : end].view(self.height, self.width, 3)


class Unresized:
    """The images of one batch that are decoded and not resized. Several threads may add to it.

    Args:
        memory: (capacity,) uint8 on the host.
    """

    def __init__(self, memory: torch.Tensor) -> None:
        self._memory = memory
        self._used = 0
        self._lock = threading.Lock()

    @property
    def filled(self) -> torch.Tensor:
        """The bytes that hold images, from the first on."""
        return self._memory[: self._used]

    def add(self, image: Image.Image | Pixels) -> Place | None:
        """Copies an image in; None when it has another form than (H, W, 3), or finds no room."""
        if isinstance(image, Image.Image) and image.mode != "RGB":
            return None
        pixels = np.asarray(image)
        if pixels.ndim != 3:
            return None
        with self._lock:
            place = Place(self._used, *pixels.shape[:2])
            if place.start + pixels.nbytes > len(self._memory):
                return None
            self._used += pixels.nbytes
        place.of(self._memory).numpy()[...] = pixels
        return place
