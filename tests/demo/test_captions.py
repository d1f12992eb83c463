"""Captions say what they claim, claim what is true, and are matched with every scene that they are true of."""

from __future__ import annotations

import re

import numpy as np
import pytest

from clipfast.demo.captions import (
    ATTRIBUTES,
    Caption,
    compose_caption,
    encode_claims,
    encode_scenes,
    indefinite,
    true_pairs,
)
from clipfast.demo.scenes import DIGITS, SHAPES, Scene, sample_scene

COUNT = 400


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Scene, Caption]]:
    rng = np.random.default_rng(4)
    subjects = [(*SHAPES, *DIGITS)[i % 20] for i in range(COUNT)]
    scenes = [sample_scene(rng, subject) for subject in subjects]
    return [(scene, compose_caption(scene, rng)) for scene in scenes]


def test_every_claim_is_true_and_said(pairs: list[tuple[Scene, Caption]]):
    for scene, caption in pairs:
        words = set(re.findall(r"\w+", caption.text))
        for attribute, value in caption.claims.items():
            assert getattr(scene, attribute) == value
            said = {value, "in"} if value in {"center", "middle"} else {value}
            if value in DIGITS:
                said = {value} if value in words else {str(DIGITS.index(value))}
            if value in {"center", "middle"}:
                said = {"in", "the"}
            assert said <= words, (caption.text, attribute)


def test_no_other_value_of_an_attribute_is_said(pairs: list[tuple[Scene, Caption]]):
    """A colour may be said of the subject or of the ground, so those two are looked at together."""
    for scene, caption in pairs:
        words = set(re.findall(r"\w+", caption.text))
        told = words & {*ATTRIBUTES["colour"], *ATTRIBUTES["background"]}
        assert told <= {scene.colour, scene.background}
        for attribute in ("size", "column", "row"):
            assert words & (set(ATTRIBUTES[attribute]) - {"center", "middle"}) <= {
                getattr(scene, attribute)
            }
        assert words & {*SHAPES, *(set(DIGITS) - {"one"})} <= {scene.subject}


def test_true_pairs_are_those_where_every_claim_holds(pairs: list[tuple[Scene, Caption]]):
    scenes, captions = [list(side) for side in zip(*pairs, strict=True)]
    truth = true_pairs(encode_scenes(scenes), encode_claims(captions))
    assert truth.shape == (COUNT, COUNT)
    for n in range(0, COUNT, 7):
        for m in range(0, COUNT, 11):
            expected = all(
                getattr(scenes[n], name) == value for name, value in captions[m].claims.items()
            )
            assert truth[n, m] == expected
    assert truth.diagonal().all()
    assert COUNT < truth.sum() < COUNT * COUNT / 4


def test_captions_vary(pairs: list[tuple[Scene, Caption]]):
    assert len({caption.text for _, caption in pairs}) > 0.9 * COUNT
    for attribute in ATTRIBUTES:
        share = sum(attribute in caption.claims for _, caption in pairs) / COUNT
        assert share > 0.02, attribute


def test_articles():
    assert indefinite("orange heart") == "an orange heart"
    assert indefinite("red circle") == "a red circle"
