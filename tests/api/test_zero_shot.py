"""Zero-shot classification against its equation, and classifiers that are kept."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch

import clipfast
from tests.api.images import photo, png
from tests.tolerances import TOWER_FLOAT32
from tests.weights import random_weights, save_as, tiny

EXAMPLE = Path(__file__).parents[2] / "examples/zero_shot.py"
LABELS = ["cat", "dog", "{} in braces"]
TEMPLATES = ["a photo of a {}.", "{}"]


def unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=-1)


def test_weights_are_the_mean_of_prompts(model: clipfast.Model) -> None:
    classifier = model.zero_shot_classifier(LABELS, templates=TEMPLATES)
    assert classifier.labels == tuple(LABELS)
    for label, row in zip(LABELS, classifier.weights, strict=True):
        prompts = [template.replace("{}", label) for template in TEMPLATES]
        truth = unit(model.encode_texts(prompts).mean(dim=0))
        assert (row - truth).abs().max() < TOWER_FLOAT32


def test_probabilities(model: clipfast.Model) -> None:
    images = [photo(seed) for seed in range(4)]
    probabilities = model.classify(images, LABELS, templates=TEMPLATES)
    weights = model.zero_shot_classifier(LABELS, TEMPLATES).weights
    truth = (model.logit_scale * model.encode_images(images) @ weights.T).softmax(dim=1)
    assert (probabilities - truth).abs().max() < 1e-4
    assert (probabilities.sum(dim=1) - 1).abs().max() < 1e-5


def test_a_failed_image_has_no_probabilities(model: clipfast.Model) -> None:
    probabilities = model.classify([png(0), b"broken"], LABELS, errors="null")
    assert probabilities[1].isnan().all()
    assert float(probabilities[0].sum()) == pytest.approx(1, abs=1e-5)


def test_saved_classifier_is_the_same(model: clipfast.Model, tmp_path: Path) -> None:
    classifier = model.zero_shot_classifier(LABELS, TEMPLATES)
    classifier.save(tmp_path / "labels.safetensors")
    for loaded in (
        model.load_classifier(tmp_path / "labels.safetensors"),
        classifier.load(tmp_path / "labels.safetensors"),
    ):
        assert loaded.labels == classifier.labels
        assert loaded.templates == tuple(TEMPLATES)
        assert torch.equal(loaded.weights, classifier.weights)


def test_classifier_of_other_weights_is_refused(model: clipfast.Model, tmp_path: Path) -> None:
    other_directory = save_as(
        "open_clip_directory", random_weights(tiny(), seed=9), tiny(), tmp_path / "other"
    )
    other = clipfast.load(other_directory, precision="fp32")
    path = tmp_path / "labels.safetensors"
    other.zero_shot_classifier(LABELS).save(path)
    with pytest.raises(clipfast.CheckpointError, match="was made with weights"):
        model.load_classifier(path)
    with pytest.raises(clipfast.CheckpointError, match="no classifier"):
        model.load_classifier(other_directory / "open_clip_model.safetensors")
    path.write_bytes(b"nothing")
    with pytest.raises(clipfast.CheckpointError, match="not a readable"):
        model.load_classifier(path)


@pytest.mark.parametrize(
    ("labels", "templates", "said"),
    [
        ([], ["{}"], "labels="),
        ("cat", ["{}"], "labels="),
        (["cat", 3], ["{}"], "label is int"),
        (["cat"], [], "templates="),
        (["cat"], ["a photo"], "where the label goes"),
    ],
)
def test_wrong_labels_and_templates(
    model: clipfast.Model, labels: list[str], templates: list[str], said: str
) -> None:
    with pytest.raises(clipfast.InputError, match=said):
        model.zero_shot_classifier(labels, templates)


def test_published_prompts() -> None:
    assert len(clipfast.templates.IMAGENET) == 80
    assert len(clipfast.templates.IMAGENET_SIMPLE) == 7
    assert len(clipfast.templates.IMAGENET_CLASSNAMES) == 1000
    assert clipfast.templates.IMAGENET_CLASSNAMES[0] == "tench"
    assert all(template.count("{}") == 1 for template in clipfast.templates.IMAGENET)


def test_the_example_names_the_best_label(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = [Path(clipfast.__file__).parent / f"demo/samples/digit_{n}.png" for n in (3, 7)]
    labels = ",".join(f"the digit {name}" for name in ("three", "seven"))
    monkeypatch.setattr(sys, "argv", ["zero_shot.py", "demo", labels, *map(str, digits)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{digits[0]}: the digit three (")
    assert second.startswith(f"{digits[1]}: the digit seven (")


def test_the_example_without_arguments_says_how(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["zero_shot.py"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("usage: zero_shot.py ")
