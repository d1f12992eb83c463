"""What the demo images show, and how they are drawn: one coloured subject, somewhere, on some background.

A scene is drawn at twice its size and reduced, so edges are smooth. Everything comes from the generator that is passed
in: the same seed draws the same pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi, radians, sin

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

RGB = tuple[int, int, int]
Points = npt.NDArray[np.float64]

SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "cross",
    "ring",
    "heart",
    "diamond",
    "arrow",
    "crescent",
)
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS: dict[str, RGB] = {
    "red": (208, 34, 38),
    "orange": (245, 135, 24),
    "yellow": (248, 218, 46),
    "green": (44, 152, 66),
    "blue": (38, 84, 206),
    "purple": (122, 50, 164),
    "pink": (246, 146, 190),
    "brown": (112, 68, 38),
    "black": (24, 24, 28),
    "white": (246, 246, 246),
}
PLAIN_BACKGROUNDS: dict[str, RGB] = {
    "white": (246, 246, 246),
    "black": (24, 24, 28),
    "gray": (138, 138, 142),
    "blue": (60, 104, 200),
    "green": (70, 158, 84),
    "yellow": (240, 214, 84),
}
PATTERNS = ("striped", "checkered")
BACKGROUNDS = (*PLAIN_BACKGROUNDS, *PATTERNS)
# Half the subject's extent, as a fraction of the image; the gaps keep small, medium and large apart.
SIZES: dict[str, tuple[float, float]] = {
    "small": (0.13, 0.15),
    "medium": (0.185, 0.21),
    "large": (0.26, 0.29),
}
COLUMNS = ("left", "center", "right")
ROWS = ("top", "middle", "bottom")
# Colour and shape pairs that training never draws: naming them takes composing the two words.
UNSEEN_PAIRS = frozenset(
    (colour, SHAPES[(3 * index + 1) % len(SHAPES)]) for index, colour in enumerate(COLOURS)
)
_GLYPH_RADIUS = 1.3  # of handwriting, whose strokes do not fill their frame, in radii of a shape
_COLOUR_DISTANCE = 120.0  # least RGB distance between a subject and anything behind it


@dataclass(frozen=True)
class Scene:
    """One image in words. subject: of SHAPES or DIGITS; the other fields: of the tables of this file."""

    subject: str
    colour: str
    background: str
    size: str
    column: str
    row: str

    @property
    def kind(self) -> str:
        return "digit" if self.subject in DIGITS else "shape"


def sample_scene(
    rng: np.random.Generator,
    subject: str,
    *,
    colours: Sequence[str] = tuple(COLOURS),
    unseen_pairs: bool = True,
    variety: float = 1.0,
) -> Scene:
    """A random scene of this subject. Digits are large and in the center of a plain ground.

    Args:
        colours: to choose from.
        unseen_pairs: False for training: never one of UNSEEN_PAIRS.
        variety: how often each of background, size, column and row is drawn at random; otherwise the background is
            white (or black behind a light subject), the subject large and in the center.
    """
    colour = _choice(rng, [c for c in colours if unseen_pairs or (c, subject) not in UNSEEN_PAIRS])
    backgrounds = [b for b in BACKGROUNDS if _contrasts(colour, b)]
    varied = rng.random(4) < variety
    if subject in DIGITS:
        plain = [b for b in backgrounds if b in PLAIN_BACKGROUNDS]
        background = _choice(rng, plain) if varied[0] else plain[0]
        return Scene(subject, colour, background, size="large", column="center", row="middle")
    return Scene(
        subject,
        colour,
        background=_choice(rng, backgrounds) if varied[0] else backgrounds[0],
        size=_choice(rng, tuple(SIZES)) if varied[1] else "large",
        column=_choice(rng, COLUMNS) if varied[2] else "center",
        row=_choice(rng, ROWS) if varied[3] else "middle",
    )


def draw_scene(
    scene: Scene,
    rng: np.random.Generator,
    image_size: int,
    glyph: npt.NDArray[np.uint8] | None = None,
) -> Image.Image:
    """The scene as an RGB image of (image_size, image_size).

    Args:
        rng: draws what the words leave open: exact position, extent, angle and tints.
        glyph: (8, 8) uint8 in [0, 255], the handwriting of a digit; for digits only.
    """
    canvas = 2 * image_size
    radius = rng.uniform(*SIZES[scene.size])
    centre = (
        _coordinate(rng, radius, COLUMNS.index(scene.column)),
        _coordinate(rng, radius, ROWS.index(scene.row)),
    )
    angle = rng.uniform(-12.0, 12.0)
    ink = _tint(rng, COLOURS[scene.colour])
    image = _draw_background(rng, scene.background, ink, canvas)
    if glyph is None:
        mask = _shape_mask(scene.subject, centre, radius, angle, canvas)
    else:
        mask = _glyph_mask(glyph, centre, radius, angle, canvas)
    image.paste(ink, mask=mask)
    return image.resize((image_size, image_size), Image.Resampling.BOX)


def _choice(rng: np.random.Generator, items: Sequence[str]) -> str:
    return items[int(rng.integers(len(items)))]


def _distance(a: RGB, b: RGB) -> float:
    return float(np.linalg.norm(np.subtract(a, b)))


def _contrasts(colour: str, background: str) -> bool:
    behind = PLAIN_BACKGROUNDS.get(background)
    return behind is None or _distance(COLOURS[colour], behind) >= _COLOUR_DISTANCE


def _tint(rng: np.random.Generator, colour: RGB) -> RGB:
    shade = int(rng.integers(-9, 10)) + rng.integers(-6, 7, 3)
    red, green, blue = np.clip(np.add(colour, shade), 0, 255)
    return int(red), int(green), int(blue)


def _coordinate(rng: np.random.Generator, radius: float, third: int) -> float:
    """Of a centre in the first, middle or last third; the subject stays within the image."""
    centre = (0.25, 0.5, 0.75)[third] + rng.uniform(-0.03, 0.03)
    return float(np.clip(centre, 1.05 * radius, 1.0 - 1.05 * radius))


def _draw_background(
    rng: np.random.Generator, background: str, ink: RGB, canvas: int
) -> Image.Image:
    if background in PLAIN_BACKGROUNDS:
        return Image.new("RGB", (canvas, canvas), _tint(rng, PLAIN_BACKGROUNDS[background]))
    first, second = _pattern_tones(rng, ink)
    image = Image.new("RGB", (canvas, canvas), first)
    draw = ImageDraw.Draw(image)
    step = int(canvas * rng.uniform(0.09, 0.14))
    offset = int(rng.integers(step))
    lines = range(-offset, canvas, 2 * step)
    if background == "striped" and rng.random() < 0.5:
        for start in lines:
            draw.rectangle((start, 0, start + step - 1, canvas), fill=second)
    elif background == "striped":
        for start in lines:
            draw.rectangle((0, start, canvas, start + step - 1), fill=second)
    else:
        for row, top in enumerate(range(-offset, canvas, step)):
            for left in range(-offset + step * (row % 2), canvas, 2 * step):
                draw.rectangle((left, top, left + step - 1, top + step - 1), fill=second)
    return image


def _pattern_tones(rng: np.random.Generator, ink: RGB) -> tuple[RGB, RGB]:
    """Two greys, a step apart, that differ more from the subject than from each other."""
    tones: list[RGB] = [(value, value, value) for value in (40, 90, 140, 190, 235)]
    apart = [t for t in tones if _distance(t, ink) >= _COLOUR_DISTANCE]
    pairs = [(a, b) for a in apart for b in apart if 0 < abs(a[0] - b[0]) <= 50]
    return pairs[int(rng.integers(len(pairs)))]


def _shape_mask(
    shape: str, centre: tuple[float, float], radius: float, angle: float, canvas: int
) -> Image.Image:
    mask = Image.new("L", (canvas, canvas), 0)
    draw = ImageDraw.Draw(mask)
    turn = radians(angle)
    rotation = np.array([[cos(turn), sin(turn)], [-sin(turn), cos(turn)]])
    for outline, fill in zip(_OUTLINES[shape], (255, 0), strict=False):
        points = (np.asarray(centre) + radius * outline @ rotation) * canvas
        draw.polygon([(x, y) for x, y in points], fill=fill)
    return mask


def _glyph_mask(
    glyph: npt.NDArray[np.uint8],
    centre: tuple[float, float],
    radius: float,
    angle: float,
    canvas: int,
) -> Image.Image:
    framed = np.pad(glyph, 1)  # strokes that reach the frame end round, and turn without being cut
    side = round(2 * _GLYPH_RADIUS * radius * canvas * framed.shape[0] / glyph.shape[0])
    strokes = Image.fromarray(framed).resize((side, side), Image.Resampling.BICUBIC)
    # 8x8 handwriting enlarged is a blur: a steeper ramp around half ink gives pen strokes.
    strokes = strokes.point([min(255, max(0, (value - 70) * 3)) for value in range(256)])
    strokes = strokes.rotate(angle, Image.Resampling.BILINEAR)
    mask = Image.new("L", (canvas, canvas), 0)
    left, top = (round(c * canvas - side / 2) for c in centre)
    mask.paste(strokes, (left, top))
    return mask


def _arc(start: float, stop: float, radius: float = 1.0, x: float = 0.0, steps: int = 64) -> Points:
    theta = np.linspace(radians(start), radians(stop), steps)
    return np.stack([x + radius * np.cos(theta), radius * np.sin(theta)], axis=1)


def _star(points: int, inner: float) -> Points:
    theta = -pi / 2 + np.arange(2 * points) * pi / points
    reach = np.where(np.arange(2 * points) % 2 == 0, 1.1, inner)
    return np.stack([reach * np.cos(theta), reach * np.sin(theta)], axis=1)


def _heart() -> Points:
    t = np.linspace(0, 2 * pi, 96)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x / 16, -(y + 2) / 16], axis=1)


def _cross(arm: float) -> Points:
    a, b = arm, 1.0
    corners = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b)]
    return np.array([*corners, (-a, a), (-b, a), (-b, -a), (-a, -a)])


def _arrow() -> Points:
    """Upwards: a head, then a shaft."""
    head = [(0.0, -1.05), (0.8, -0.1), (0.3, -0.1)]
    shaft = [(0.3, 1.0), (-0.3, 1.0), (-0.3, -0.1), (-0.8, -0.1)]
    return np.array([*head, *shaft])


def _crescent() -> Points:
    return np.concatenate([_arc(50, 310), _arc(287, 73, radius=0.80, x=0.40)])


# In units of the radius, y down: the filled outline, then its hole if it has one.
_OUTLINES: dict[str, tuple[Points, ...]] = {
    "circle": (_arc(0, 360),),
    "square": (np.array([(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]),),
    "triangle": (np.array([(0.0, -1.0), (1.0, 0.8), (-1.0, 0.8)]),),
    "star": (_star(5, 0.45),),
    "cross": (_cross(0.33),),
    "ring": (_arc(0, 360), _arc(0, 360, radius=0.58)),
    "heart": (_heart(),),
    "diamond": (np.array([(0.0, -1.1), (0.68, 0.0), (0.0, 1.1), (-0.68, 0.0)]),),
    "arrow": (_arrow(),),
    "crescent": (_crescent(),),
}
