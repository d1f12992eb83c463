"""The demo command's body: what it finds, prints and draws."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clipfast
from clipfast.demo import show
from clipfast.demo.report import Guess, Report, Search, bar, format_report
from clipfast.demo.samples import draw_gallery, draw_samples, labels, true_label


@pytest.fixture(scope="module")
def model() -> clipfast.Model:
    return clipfast.load("demo", precision="fp32")


@pytest.fixture(scope="module")
def shown(model: clipfast.Model, tmp_path_factory) -> tuple[Report, str, Path]:
    output = tmp_path_factory.mktemp("demo") / "demo.png"
    stream = io.StringIO()
    report = show.run(model, output, stream=stream)
    return report, stream.getvalue(), output


def test_the_samples_are_named_right(shown):
    report, _, _ = shown
    samples = draw_samples()
    assert len(samples) == 12
    truth = [true_label(sample.scene) for sample in samples]
    assert len(set(truth)) == 12
    assert set(truth) <= set(labels())
    assert [guess.right for guess in report.guesses] == [
        guess.label == label for guess, label in zip(report.guesses, truth, strict=True)
    ]
    assert sum(guess.right for guess in report.guesses) >= 11


def test_searches_return_what_was_asked_for(shown, model: clipfast.Model):
    report, _, _ = shown
    gallery = draw_gallery(show.GALLERY_SIZE)
    stars = report.searches[0]
    assert stars.query == "a yellow star"
    assert {gallery[i].scene.subject for i in stars.indices[:2]} == {"star"}
    assert {gallery[i].scene.colour for i in stars.indices[:2]} == {"yellow"}
    images = model.encode_images([sample.image for sample in gallery])
    cosines = (model.encode_texts([stars.query]) @ images.T)[0].numpy()
    best = np.argsort(-cosines)[: show.HITS]
    assert stars.indices == best.tolist()
    assert stars.cosines == pytest.approx(cosines[best].tolist(), abs=1e-5)


def test_the_report_is_printed(shown):
    report, printed, output = shown
    assert f"{len(report.guesses)} images, 110 labels" in printed
    for guess in report.guesses:
        assert f"{guess.label:<28}" in printed
    assert f"{report.images_per_second:,.0f} images/s" in printed
    assert f"{report.texts_per_second:,.0f} texts/s" in printed
    assert report.images_per_second > 0
    assert report.texts_per_second > 0
    assert str(output) in printed


def test_the_contact_sheet_shows_every_sample(shown):
    _, _, output = shown
    sheet = np.asarray(Image.open(output))
    assert sheet.ndim == 3
    for sample in draw_samples():
        colour = np.asarray(sample.image)[0, 112].astype(int)  # what the top edge shows
        assert (np.abs(sheet.astype(int) - colour).sum(axis=2) < 12).sum() > 50


def test_json_is_one_document(model: clipfast.Model, tmp_path, monkeypatch):
    monkeypatch.setattr(show, "_SECONDS_TIMED", 0.0)
    stream = io.StringIO()
    report = show.run(model, tmp_path / "demo.png", as_json=True, stream=stream)
    document = json.loads(stream.getvalue())
    assert document["guesses"][0]["label"] == report.guesses[0].label
    assert len(document["searches"]) == len(show.QUERIES)


def test_an_output_that_cannot_be_written_is_an_error(model, tmp_path, monkeypatch):
    monkeypatch.setattr(show, "_SECONDS_TIMED", 0.0)
    with pytest.raises(OSError, match="missing"):
        show.run(model, tmp_path / "missing" / "demo.png", stream=io.StringIO())


def test_bars_fill_in_eighths():
    assert bar(1.0) == "█" * 20
    assert bar(0.0) == " " * 20
    assert bar(0.5) == "█" * 10 + " " * 10
    assert bar(0.5 + 3 / 160) == "█" * 10 + "▍" + " " * 9


def test_a_wrong_guess_is_marked():
    guesses = [Guess("red circle", 0.9, right=True), Guess("red star", 0.5, right=False)]
    search = Search("a star", [1, 0], [0.31, 0.2])
    report = Report("demo", 110, 2, guesses, [search], 10.0, 20.0, "demo.png")
    lines = format_report(report).splitlines()
    assert "1 right" in lines[2]
    assert [line.endswith("wrong") for line in lines[3:5]] == [False, True]
    assert any("0.31  0.20" in line for line in lines)
