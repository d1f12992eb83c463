"""The demo: a dozen images named, a gallery searched by text, the speed of both, and a contact sheet of it all."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import TextIO

import numpy as np

from clipfast.api import Model
from clipfast.demo.contact_sheet import draw_contact_sheet
from clipfast.demo.report import Guess, Report, Search, format_report
from clipfast.demo.samples import Sample, draw_gallery, draw_samples, labels, true_label
from clipfast.scoring import top_k

QUERIES = (
    "a yellow star",
    "a small heart on a striped background",
    "a large blue shape",
    "a crescent in the top left corner",
)
GALLERY_SIZE = 240
HITS = 5
_TEXTS_TIMED = 256
_SECONDS_TIMED = 1.0


def run(
    model: Model, output: Path, *, as_json: bool = False, stream: TextIO | None = None
) -> Report:
    """Classifies, searches, measures, writes the contact sheet to `output` and prints the report.

    Args:
        model: `clipfast.load("demo")`; the samples are of the demo model's small world.
        output: the PNG file to write.
        as_json: print the report as one JSON object instead of tables.
        stream: where to print; standard output when None. Progress goes to standard error.
    Raises:
        OSError: `output` cannot be written.
    """
    _progress(f"drawing {GALLERY_SIZE} images")
    samples, gallery = draw_samples(), draw_gallery(GALLERY_SIZE)
    _progress("classifying and searching")
    guesses = classify_samples(model, samples)
    searches = search_gallery(model, gallery)
    _progress("measuring speed")
    report = Report(
        model=f"{model.config.name}, {model.backend} {model.precision} on {model.device}",
        labels=len(labels()),
        gallery=len(gallery),
        guesses=guesses,
        searches=searches,
        images_per_second=_images_per_second(model, gallery),
        texts_per_second=_texts_per_second(model),
        contact_sheet=str(output),
    )
    draw_contact_sheet(report, samples, gallery).save(output)
    stream = sys.stdout if stream is None else stream
    print(json.dumps(asdict(report), indent=2) if as_json else format_report(report), file=stream)
    return report


def classify_samples(model: Model, samples: list[Sample]) -> list[Guess]:
    """The best of all labels for each sample."""
    names = labels()
    images = [sample.image for sample in samples]
    probabilities, best = model.classify(images, names).max(dim=1)
    return [
        Guess(names[index], probability, right=names[index] == true_label(sample.scene))
        for sample, probability, index in zip(
            samples, probabilities.tolist(), best.tolist(), strict=True
        )
    ]


def search_gallery(model: Model, gallery: list[Sample]) -> list[Search]:
    """The HITS best images for each of QUERIES."""
    embeddings = model.encode_images([sample.image for sample in gallery])
    cosines, indices = top_k(model.encode_texts(list(QUERIES)), embeddings, k=HITS)
    rows = zip(QUERIES, indices.tolist(), cosines.tolist(), strict=True)
    return [Search(*row) for row in rows]


def _images_per_second(model: Model, gallery: list[Sample]) -> float:
    """Of one uint8 batch that has the model's size already: the encoder alone."""
    size = (model.config.vision.image_size, model.config.vision.image_size)
    pixels = np.stack([np.asarray(sample.image.resize(size)) for sample in gallery])
    return _rate(lambda: model.encode_images(pixels), len(pixels))


def _texts_per_second(model: Model) -> float:
    """Of short captions, tokenizing included."""
    names = labels()
    texts = [f"a photo of {names[i % len(names)]}." for i in range(_TEXTS_TIMED)]
    return _rate(lambda: model.encode_texts(texts), len(texts))


def _rate(encode: Callable[[], object], items: int) -> float:
    encode()  # warm-up
    start, calls = perf_counter(), 0
    while (elapsed := perf_counter() - start) < _SECONDS_TIMED or not calls:
        encode()
        calls += 1
    return calls * items / elapsed


def _progress(message: str) -> None:
    print(f"{message} ...", file=sys.stderr, flush=True)
