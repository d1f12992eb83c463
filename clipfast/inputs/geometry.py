"""Where a resized and centre-cropped image comes from: output sizes, crop windows and the order of the two passes.

Source: torchvision's Resize and CenterCrop, and Pillow 13's choice of the first pass (python-pillow PR 9549).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from clipfast.config import ResizeMode


@dataclass(frozen=True)
class Axis:
    """One axis of a resize: `source` pixels become `resized`, of which start:start+length are kept."""

    source: int
    resized: int
    start: int
    length: int

    @property
    def changes(self) -> bool:
        return self.source != self.resized

    @property
    def scale(self) -> float:
        return self.source / self.resized


@dataclass(frozen=True)
class ResizePlan:
    """Both axes, and whether the vertical pass comes first (each pass rounds to 8 bits, so order shows in the bits)."""

    horizontal: Axis
    vertical: Axis
    vertical_first: bool

    @property
    def resized_pixels(self) -> int:
        """Pixels of the whole resized image, before the crop."""
        return self.horizontal.resized * self.vertical.resized

    def of(self, width: int, height: int) -> ResizePlan:
        """The same plan for an image that was decoded at another size."""
        horizontal, vertical = (
            replace(self.horizontal, source=width),
            replace(self.vertical, source=height),
        )
        return replace(self, horizontal=horizontal, vertical=vertical)


def plan_resize(width: int, height: int, size: int, mode: ResizeMode) -> ResizePlan:
    """How a width x height image becomes size x size.

    mode "shortest": the shorter side becomes `size` and the longer one int(size * long / short), then the centre is
    cropped at int(round((long - size) / 2)), a half rounded to even; "squash": both sides become `size`.
    """
    resized_width = resized_height = size
    if mode == "shortest":
        if width <= height:
            resized_height = int(size * height / width)
        else:
            resized_width = int(size * width / height)
    horizontal = Axis(width, resized_width, round((resized_width - size) / 2), size)
    vertical = Axis(height, resized_height, round((resized_height - size) / 2), size)
    shrinks_rows_more = height - resized_height > 2 * (width - resized_width)
    return ResizePlan(horizontal, vertical, shrinks_rows_more and resized_height < height)
