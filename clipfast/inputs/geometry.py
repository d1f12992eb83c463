"""Where a resized and centre-cropped image comes from: output sizes, crop windows and the order of the two passes.

Source: torchvision's Resize and CenterCrop, and Pillow 13's choice of the first pass (python-pillow PR 9549).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from clipfast.config import ResizeMode

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


@dataclass(frozen=True)
class Axis:
    """One axis of a resize: from `begin` to `end` of `source` pixels become `resized`.

    Of these, start:start+length are kept. The image fills all of its pixels, 0 to `source`, but where a decoder shrank
    it to a size that is not whole: 480.375 rows decode to 481, the last of them in part beyond the image.
    """

    source: int
    begin: float
    end: float
    resized: int
    start: int
    length: int

    @property
    def changes(self) -> bool:
        return (self.begin, self.end) != (0, self.resized)

    @property
    def scale(self) -> float:
        return (self.end - self.begin) / self.resized


@dataclass(frozen=True)
class ResizePlan:
    """Both axes of a resize."""

    horizontal: Axis
    vertical: Axis

    @property
    def vertical_first(self) -> bool:
        """Whether the vertical pass comes first: each pass rounds to 8 bits, so order shows in the bits."""
        rows_lost = self.vertical.source - self.vertical.resized
        columns_lost = self.horizontal.source - self.horizontal.resized
        return rows_lost > 2 * columns_lost and rows_lost > 0

    @property
    def box(self) -> Box:
        """The part of the source that the image fills."""
        return self.horizontal.begin, self.vertical.begin, self.horizontal.end, self.vertical.end

    @property
    def resized_pixels(self) -> int:
        """Pixels of the whole resized image, before the crop."""
        return self.horizontal.resized * self.vertical.resized

    def within(self, box: Box, width: int, height: int) -> ResizePlan:
        """The same plan for the image decoded at another size, where it fills `box` of width x height pixels."""
        left, top, right, bottom = box
        return ResizePlan(
            replace(self.horizontal, source=width, begin=left, end=right),
            replace(self.vertical, source=height, begin=top, end=bottom),
        )


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
    return ResizePlan(_whole(width, resized_width, size), _whole(height, resized_height, size))


def _whole(source: int, resized: int, size: int) -> Axis:
    """The axis of an image that fills all of its pixels, of which the middle `size` are kept."""
    return Axis(source, 0, source, resized, round((resized - size) / 2), size)
