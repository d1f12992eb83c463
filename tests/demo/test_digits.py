"""The split of the handwriting, and the samples that the demo carries."""

from __future__ import annotations

import numpy as np

from clipfast.demo.digits import load_handwriting, read_samples


def test_training_and_held_out_handwriting_are_all_of_it_and_share_nothing():
    train, held_out = load_handwriting()
    assert (len(train.labels), len(held_out.labels)) == (1438, 359)
    assert {glyph.tobytes() for glyph in train.glyphs}.isdisjoint(
        glyph.tobytes() for glyph in held_out.glyphs
    )
    assert np.bincount(held_out.labels).min() >= 20
    assert train.glyphs.dtype == np.uint8
    assert (train.glyphs.min(), train.glyphs.max()) == (0, 255)


def test_the_stored_samples_are_held_out_handwriting():
    _, held_out = load_handwriting()
    samples = read_samples()
    assert len(samples) == 4
    for label, glyph in samples:
        same = (held_out.glyphs == glyph).all(axis=(1, 2))
        assert label in held_out.labels[same]
