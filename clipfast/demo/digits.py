"""scikit-learn's handwritten digits, split once: what training sees, and what it never sees.

Only training and its tests need scikit-learn (the `dev` extra); the demo's own samples are PNG files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

SAMPLES = Path(__file__).parent / "samples"
_FULL_INK = 16.0  # the data set's grey levels: 0..16


@dataclass(frozen=True)
class Handwriting:
    """glyphs: (N, 8, 8) uint8, ink in [0, 255]. labels: (N,) int64 in [0, 9]."""

    glyphs: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


def load_handwriting() -> tuple[Handwriting, Handwriting]:
    """(train, held out): the 1,797 digits, of which every fifth, in the data set's order, is held out.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI 1998 (CC BY 4.0).
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    glyphs = (data.images * (255.0 / _FULL_INK)).round().astype(np.uint8)
    labels = data.target.astype(np.int64)
    held_out = np.arange(len(labels)) % 5 == 4
    return (
        Handwriting(glyphs[~held_out], labels[~held_out]),
        Handwriting(glyphs[held_out], labels[held_out]),
    )


def write_samples(handwriting: Handwriting, labels: tuple[int, ...]) -> None:
    """Stores the first held-out glyph of each label as a PNG of 8x8 grey pixels."""
    SAMPLES.mkdir(exist_ok=True)
    for label in labels:
        glyph = handwriting.glyphs[handwriting.labels == label][0]
        Image.fromarray(glyph).save(SAMPLES / f"digit_{label}.png", optimize=True)


def read_samples() -> list[tuple[int, npt.NDArray[np.uint8]]]:
    """(label, (8, 8) uint8 glyph) of every stored sample, by label."""
    return [
        (int(path.stem.removeprefix("digit_")), np.asarray(Image.open(path).convert("L")))
        for path in sorted(SAMPLES.glob("digit_*.png"))
    ]
