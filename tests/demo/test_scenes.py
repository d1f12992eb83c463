"""Scenes look as their words say, and the same seed draws the same pixels."""

from __future__ import annotations

import numpy as np
import pytest

from clipfast.demo.scenes import (
    COLOURS,
    COLUMNS,
    DIGITS,
    PLAIN_BACKGROUNDS,
    ROWS,
    SHAPES,
    SIZES,
    UNSEEN_PAIRS,
    Scene,
    draw_scene,
    sample_scene,
)

SIDE = 112


def draw(scene: Scene, seed: int = 0, glyph: np.ndarray | None = None) -> np.ndarray:
    image = draw_scene(scene, np.random.default_rng(seed), SIDE, glyph)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def subject_pixels(pixels: np.ndarray) -> np.ndarray:
    """(H, W) bool: where a scene on a plain ground differs from its corner."""
    return np.abs(pixels - pixels[0, 0]).sum(axis=2) > 60


def test_the_same_seed_draws_the_same_pixels():
    scene = Scene("star", "red", "striped", "medium", "left", "top")
    assert (draw(scene, 5) == draw(scene, 5)).all()
    assert (draw(scene, 5) != draw(scene, 6)).any()


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("size", SIZES)
def test_the_subject_is_where_and_as_large_as_the_words_say(size: str, row: str, column: str):
    pixels = draw(Scene("square", "blue", "white", size, column, row), seed=3)
    rows, columns = np.nonzero(subject_pixels(pixels))
    assert columns.mean() // (SIDE / 3) == COLUMNS.index(column)
    assert rows.mean() // (SIDE / 3) == ROWS.index(row)
    # A square's side is 1.7 radii; its area does not depend on its angle.
    low, high = ((1.7 * radius * SIDE) ** 2 for radius in SIZES[size])
    assert 0.93 * low <= len(rows) <= 1.07 * high


@pytest.mark.parametrize("colour", COLOURS)
def test_subject_and_ground_have_the_colours_named(colour: str):
    ground = "black" if colour in {"white", "yellow"} else "white"
    pixels = draw(Scene("circle", colour, ground, "large", "center", "middle"))
    for found, table, name in (
        (pixels[SIDE // 2, SIDE // 2], COLOURS, colour),
        (pixels[0, 0], PLAIN_BACKGROUNDS, ground),
    ):
        nearest = min(table, key=lambda other: np.abs(found - table[other]).sum())
        assert nearest == name


def test_shapes_differ():
    drawn = [
        subject_pixels(draw(Scene(shape, "black", "white", "large", "center", "middle")))
        for shape in SHAPES
    ]
    for i, first in enumerate(drawn):
        for second in drawn[:i]:
            assert (first ^ second).sum() > 0.05 * (first | second).sum()


def test_a_ring_has_a_hole_and_a_circle_none():
    ring = draw(Scene("ring", "black", "white", "large", "center", "middle"))
    circle = draw(Scene("circle", "black", "white", "large", "center", "middle"))
    assert ring[SIDE // 2, SIDE // 2].min() > 200
    assert circle[SIDE // 2, SIDE // 2].max() < 60


def test_patterns_have_two_tones_behind_the_subject():
    for background in ("striped", "checkered"):
        pixels = draw(Scene("circle", "red", background, "small", "center", "middle"))
        edges = np.concatenate([pixels[0], pixels[:, 0]])  # stripes run either way
        tones, counts = np.unique(edges, axis=0, return_counts=True)
        assert len(tones[counts > 5]) == 2


def test_a_glyph_is_drawn_as_ink():
    glyph = np.zeros((8, 8), np.uint8)
    glyph[:, 3:5] = 255  # an upright bar
    pixels = draw(Scene("one", "black", "white", "large", "center", "middle"), glyph=glyph)
    rows, columns = np.nonzero(subject_pixels(pixels))
    assert np.ptp(rows) > 2 * np.ptp(columns) > 0


def test_training_scenes_never_show_an_unseen_pair_and_others_do():
    rng = np.random.default_rng(0)
    subjects = [SHAPES[i % len(SHAPES)] for i in range(3000)]
    trained = {(s.colour, s.subject) for s in _scenes(rng, subjects, unseen_pairs=False)}
    every = {(s.colour, s.subject) for s in _scenes(rng, subjects, unseen_pairs=True)}
    pairs = {(colour, shape) for colour in COLOURS for shape in SHAPES}
    assert len(UNSEEN_PAIRS) == 10
    assert trained == pairs - UNSEEN_PAIRS
    assert every == pairs


def test_scenes_without_variety_are_large_centred_and_plain():
    rng = np.random.default_rng(0)
    for subject in (*SHAPES, *DIGITS):
        scene = sample_scene(rng, subject, variety=0.0)
        assert (scene.size, scene.column, scene.row) == ("large", "center", "middle")
        assert scene.background in {"white", "black"}


def test_nothing_is_drawn_on_its_own_colour():
    rng = np.random.default_rng(1)
    for scene in _scenes(rng, SHAPES * 100, unseen_pairs=True):
        assert scene.background != scene.colour


def _scenes(rng: np.random.Generator, subjects: list[str], *, unseen_pairs: bool) -> list[Scene]:
    return [sample_scene(rng, subject, unseen_pairs=unseen_pairs) for subject in subjects]
