"""Captions composed for a scene, and which captions are true of which scenes.

A caption claims some attributes of its scene and is silent about the rest, so it is often true of other scenes of the
batch as well: `true_pairs` finds these, and training neither rewards nor punishes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipfast import templates
from clipfast.demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    COLUMNS,
    DIGITS,
    PATTERNS,
    ROWS,
    SHAPES,
    SIZES,
    Scene,
)

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "kind": ("shape", "digit"),
    "subject": (*SHAPES, *DIGITS),
    "colour": tuple(COLOURS),
    "background": BACKGROUNDS,
    "size": tuple(SIZES),
    "column": COLUMNS,
    "row": ROWS,
}
TEMPLATES = (
    "{}",
    "{}.",
    "a photo of {}.",
    "a photo of {}",
    "a picture of {}.",
    "an image of {}.",
    "a drawing of {}.",
    "an illustration of {}.",
    "this is {}.",
    "there is {}.",
)
# The published prompt templates, without those that would claim a size or a colour themselves.
PROMPTS = tuple(
    prompt
    for prompt in templates.IMAGENET
    if not {"large", "small", "black", "white"} & set(prompt.split())
)
_CORNERS = ("in the {row} {column} corner", "at the {row} {column}")
_MIDDLE = ("in the center", "in the middle")
_SIDES = ("on the {column}", "on the {column} side")
_BACKDROPS = ("on a {} background", "on a {} background", "against a {} background", "on {}")


@dataclass(frozen=True)
class Caption:
    """A sentence and what it claims: attribute -> value, both of ATTRIBUTES."""

    text: str
    claims: dict[str, str]


def compose_caption(scene: Scene, rng: np.random.Generator) -> Caption:
    """A random caption that is true of the scene, in one of many phrasings."""
    noun, claims = _noun(scene, rng)
    adjectives = []
    if scene.size != "medium" and rng.random() < 0.35:
        adjectives.append(scene.size)
        claims["size"] = scene.size
    if rng.random() < (0.8 if scene.kind == "shape" else 0.4):
        adjectives.append(scene.colour)
        claims["colour"] = scene.colour
    phrase = " ".join([*adjectives, noun])
    if rng.random() < 0.15:
        return Caption(_pick(rng, PROMPTS).format(phrase), claims)
    details = []
    if rng.random() < 0.35:
        details.append(_place(scene, rng, claims))
    if rng.random() < 0.35:
        details.append(_backdrop(scene, rng, claims))
    if rng.random() < 0.3:
        details.reverse()
    sentence = " ".join(part for part in (_with_article(phrase, rng), *details) if part)
    return Caption(_pick(rng, TEMPLATES).format(sentence), claims)


def indefinite(phrase: str) -> str:
    """The phrase with its article: `a red circle`, `an orange heart`."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def encode_scenes(scenes: Sequence[Scene]) -> npt.NDArray[np.int64]:
    """(N, attributes) int64: each scene's value of each attribute, as an index into ATTRIBUTES."""
    rows = [[_INDEX[name][getattr(scene, name)] for name in ATTRIBUTES] for scene in scenes]
    return np.array(rows, dtype=np.int64).reshape(-1, len(ATTRIBUTES))


def encode_claims(captions: Sequence[Caption]) -> npt.NDArray[np.int64]:
    """(M, attributes) int64: as `encode_scenes`, -1 where a caption is silent."""
    rows = [
        [
            _INDEX[name][caption.claims[name]] if name in caption.claims else -1
            for name in ATTRIBUTES
        ]
        for caption in captions
    ]
    return np.array(rows, dtype=np.int64).reshape(-1, len(ATTRIBUTES))


def true_pairs(
    scenes: npt.NDArray[np.int64], claims: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """(N, M) bool: whether all that caption m claims holds for scene n."""
    return np.asarray(((claims < 0) | (claims == scenes[:, None])).all(axis=2))


_INDEX = {
    name: {value: index for index, value in enumerate(values)}
    for name, values in ATTRIBUTES.items()
}


def _pick(rng: np.random.Generator, items: Sequence[str]) -> str:
    return items[int(rng.integers(len(items)))]


def _noun(scene: Scene, rng: np.random.Generator) -> tuple[str, dict[str, str]]:
    if rng.random() < 0.05:
        noun = "shape" if scene.kind == "shape" else _pick(rng, ("digit", "handwritten digit"))
        return noun, {"kind": scene.kind}
    if scene.kind == "shape":
        return scene.subject, {"subject": scene.subject}
    word = scene.subject if rng.random() < 0.75 else str(DIGITS.index(scene.subject))
    noun = _pick(rng, ("digit {}", "handwritten digit {}", "number {}", "handwritten {}", "{}"))
    return noun.format(word), {"subject": scene.subject}


def _with_article(phrase: str, rng: np.random.Generator) -> str:
    choice = rng.random()
    if choice < 0.25:
        return phrase
    if choice < 0.4:
        return f"the {phrase}"
    return indefinite(phrase)


def _place(scene: Scene, rng: np.random.Generator, claims: dict[str, str]) -> str:
    """A phrase for the column, the row or both; none for a middle that is not the center."""
    column = scene.column if scene.column != "center" else ""
    row = scene.row if scene.row != "middle" else ""
    if not column and not row:
        claims.update(column="center", row="middle")
        return _pick(rng, _MIDDLE)
    if column and row and rng.random() < 0.5:
        claims.update(column=column, row=row)
        return _pick(rng, _CORNERS).format(row=row, column=column)
    if column and (not row or rng.random() < 0.5):
        claims["column"] = column
        return _pick(rng, _SIDES).format(column=column)
    claims["row"] = row
    return f"at the {row}"


def _backdrop(scene: Scene, rng: np.random.Generator, claims: dict[str, str]) -> str:
    claims["background"] = scene.background
    patterned = scene.background in PATTERNS
    return _pick(rng, _BACKDROPS[:3] if patterned else _BACKDROPS).format(scene.background)
