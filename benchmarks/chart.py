"""A bar chart drawn with Pillow, which is there anyway."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

_WIDTH, _ROW, _GAP, _MARGIN = 1000, 26, 40, 24
_LABEL, _VALUE = 150, 80
_INK, _FAINT, _OURS, _THEIRS = "#1f2328", "#6e7781", "#d4442e", "#b9c2cc"


@dataclass(frozen=True)
class Bar:
    group: str
    label: str
    value: float
    ours: bool = False


def figure(value: float) -> str:
    """Three digits, or all of those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def draw_chart(title: str, bars: list[Bar]) -> Image.Image:
    """Horizontal bars under the name of their group, each group on its own scale, our bars in colour."""
    groups: dict[str, list[Bar]] = {}
    for bar in bars:
        groups.setdefault(bar.group, []).append(bar)
    height = 2 * _MARGIN + _GAP + sum(_GAP + _ROW * len(group) for group in groups.values())
    image = Image.new("RGB", (_WIDTH, height), "white")
    draw = ImageDraw.Draw(image)
    draw.text((_MARGIN, _MARGIN), title, _INK, ImageFont.load_default(20))
    top = _MARGIN + _GAP
    for name, group in groups.items():
        draw.text((_MARGIN, top + 10), name, _FAINT, ImageFont.load_default(15))
        top += _GAP
        for bar in group:
            _draw_bar(draw, bar, top, bar.value / max(other.value for other in group))
            top += _ROW
    return image


def _draw_bar(draw: ImageDraw.ImageDraw, bar: Bar, top: int, share: float) -> None:
    """share: of the longest bar, in [0, 1]."""
    font = ImageFont.load_default(14)
    left = _MARGIN + _LABEL
    right = left + round(share * (_WIDTH - left - _VALUE - _MARGIN))
    draw.text((left - 8, top + 4), bar.label, _INK, font, anchor="ra")
    draw.rectangle((left, top + 2, right, top + _ROW - 4), _OURS if bar.ours else _THEIRS)
    draw.text((right + 8, top + 4), figure(bar.value), _INK, font)
