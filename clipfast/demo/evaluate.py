"""The demo model's accuracy on images and handwriting that training never saw, through the public API.

The prompts name a thing among all things of its kind: "a red circle" among every colour and shape, "a handwritten digit
seven" among the ten digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from clipfast import templates
from clipfast.api import Model
from clipfast.demo.captions import indefinite
from clipfast.demo.digits import Handwriting
from clipfast.demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    DIGITS,
    SHAPES,
    UNSEEN_PAIRS,
    Scene,
    draw_scene,
    sample_scene,
)
from clipfast.scoring import top_k

HELD_OUT_SEED = 77_000_001
IMAGES_PER_PAIR = 10
PAIRS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
SIDES = ("left", "right")


@dataclass(frozen=True)
class HeldOut:
    """scenes: N of them. pixels: (N, R, R, 3) uint8."""

    scenes: list[Scene]
    pixels: npt.NDArray[np.uint8]


def evaluate(model: Model, handwriting: Handwriting) -> dict[str, float]:
    """Metric name -> accuracy in [0, 1], for the model card.

    Args:
        handwriting: the held-out part of `load_handwriting`.
    """
    size = model.config.vision.image_size
    shapes, digits = draw_shapes(size), draw_digits(handwriting, size)
    pairs = np.array([PAIRS.index((s.colour, s.subject)) for s in shapes.scenes])
    unseen = np.array([PAIRS[pair] in UNSEEN_PAIRS for pair in pairs])
    names = [f"{colour} {shape}" for colour, shape in PAIRS]
    labels = [indefinite(name) for name in names]
    right = _right(model, shapes.pixels, labels, pairs)
    prompted = _right(model, shapes.pixels, names, pairs, templates.DEFAULT)
    ensembled = _right(model, shapes.pixels, names, pairs, templates.IMAGENET)
    return {
        "shapes_and_colours": float(right.mean()),
        "shapes_and_colours_never_paired_in_training": float(right[unseen].mean()),
        "shapes_and_colours_default_template": float(prompted.mean()),
        "shapes_and_colours_imagenet_templates": float(ensembled.mean()),
        "digits": _digits(model, digits, handwriting, "a handwritten digit {}"),
        "digits_bare_label": _digits(model, digits, handwriting, "{}"),
        "backgrounds": _backgrounds(model, shapes),
        "left_or_right": _sides(model, shapes),
        "text_search_precision_at_10": _search(model, shapes.pixels, labels, pairs),
    }


def draw_shapes(image_size: int) -> HeldOut:
    """IMAGES_PER_PAIR images of every colour and shape, those that training never draws included."""
    rng = np.random.default_rng(HELD_OUT_SEED)
    scenes: list[Scene] = []
    for colour, shape in PAIRS:
        wanted = len(scenes) + IMAGES_PER_PAIR
        while len(scenes) < wanted:
            scene = sample_scene(rng, shape)
            if scene.colour == colour:
                scenes.append(scene)
    return HeldOut(scenes, np.stack([np.asarray(draw_scene(s, rng, image_size)) for s in scenes]))


def draw_digits(handwriting: Handwriting, image_size: int) -> HeldOut:
    """One image of every glyph, in its order."""
    rng = np.random.default_rng(HELD_OUT_SEED + 1)
    scenes = [sample_scene(rng, DIGITS[label]) for label in handwriting.labels]
    images = [
        np.asarray(draw_scene(scene, rng, image_size, glyph))
        for scene, glyph in zip(scenes, handwriting.glyphs, strict=True)
    ]
    return HeldOut(scenes, np.stack(images))


def _right(
    model: Model,
    pixels: npt.NDArray[np.uint8],
    labels: Sequence[str],
    truth: npt.NDArray[np.int64],
    prompts: Sequence[str] = ("{}",),
) -> npt.NDArray[np.bool_]:
    probabilities = model.classify(pixels, labels, prompts)
    return np.asarray(probabilities.argmax(dim=1).numpy() == truth)


def _digits(model: Model, digits: HeldOut, handwriting: Handwriting, prompt: str) -> float:
    labels = [prompt.format(digit) for digit in DIGITS]
    return float(_right(model, digits.pixels, labels, handwriting.labels).mean())


def _backgrounds(model: Model, shapes: HeldOut) -> float:
    labels = [f"a shape on a {background} background" for background in BACKGROUNDS]
    truth = np.array([BACKGROUNDS.index(scene.background) for scene in shapes.scenes])
    return float(_right(model, shapes.pixels, labels, truth).mean())


def _sides(model: Model, shapes: HeldOut) -> float:
    aside = np.array([scene.column in SIDES for scene in shapes.scenes])
    truth = np.array([SIDES.index(s.column) for s in shapes.scenes if s.column in SIDES])
    labels = [f"a shape on the {side}" for side in SIDES]
    return float(_right(model, shapes.pixels[aside], labels, truth).mean())


def _search(
    model: Model,
    pixels: npt.NDArray[np.uint8],
    queries: Sequence[str],
    truth: npt.NDArray[np.int64],
) -> float:
    """The share of the ten best images of each query that show what it names (IMAGES_PER_PAIR do)."""
    _, found = top_k(model.encode_texts(list(queries)), model.encode_images(pixels), k=10)
    shown = torch.from_numpy(truth)[found]
    return float((shown == torch.arange(len(queries))[:, None]).double().mean())
