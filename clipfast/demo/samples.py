"""The images that the demo shows: drawn from a seed that training never used, digits from held-out handwriting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from clipfast.demo.digits import read_samples
from clipfast.demo.scenes import COLOURS, DIGITS, SHAPES, Scene, draw_scene, sample_scene

SAMPLE_SIZE = 224  # pixels a side: twice what the model reads, so its resizing is part of the demo
_SEED = 77_000_003
_SHAPES_SHOWN = 8


@dataclass(frozen=True)
class Sample:
    """An image and what it shows, in the words of its scene."""

    image: Image.Image
    scene: Scene


def draw_samples() -> list[Sample]:
    """A dozen images to classify: eight shapes, no two of one colour, and the stored handwritten digits."""
    rng = np.random.default_rng(_SEED)
    samples: list[Sample] = []
    for shape in rng.permutation(SHAPES)[:_SHAPES_SHOWN]:
        shown = {sample.scene.colour for sample in samples}
        scene = sample_scene(rng, str(shape))
        while scene.colour in shown:
            scene = sample_scene(rng, str(shape))
        samples.append(Sample(draw_scene(scene, rng, SAMPLE_SIZE), scene))
    for label, glyph in read_samples():
        scene = sample_scene(rng, DIGITS[label])
        samples.append(Sample(draw_scene(scene, rng, SAMPLE_SIZE, glyph), scene))
    return samples


def draw_gallery(count: int) -> list[Sample]:
    """Images to search: shapes in turn, every other attribute at random."""
    rng = np.random.default_rng(_SEED + 1)
    scenes = [sample_scene(rng, SHAPES[i % len(SHAPES)]) for i in range(count)]
    return [Sample(draw_scene(scene, rng, SAMPLE_SIZE), scene) for scene in scenes]


def labels() -> list[str]:
    """Every colour of every shape, and the ten digits."""
    pairs = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    return pairs + [f"handwritten digit {digit}" for digit in DIGITS]


def true_label(scene: Scene) -> str:
    """The one of `labels` that names what the scene shows."""
    if scene.kind == "digit":
        return f"handwritten digit {scene.subject}"
    return f"{scene.colour} {scene.subject}"
