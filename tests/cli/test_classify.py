from __future__ import annotations

import json

import numpy as np
import pytest

import clipfast
from clipfast.cli import main


def run(arguments, capsys):
    code = main(["classify", *map(str, arguments)])
    return code, capsys.readouterr()


def test_probabilities_are_the_models(model_folder, image_folder, capsys):
    images = [image_folder / "a.png", image_folder / "b.jpg"]
    code, captured = run(
        [
            *images,
            "--labels",
            "cat, dog,fox",
            "--model",
            model_folder,
            "--precision",
            "fp32",
            "--json",
        ],
        capsys,
    )
    assert code == 0
    results = json.loads(captured.out)
    model = clipfast.load(model_folder, precision="fp32")
    expected = model.classify(images, ["cat", "dog", "fox"], templates=["a photo of a {}."])
    for image, result, row in zip(images, results, expected.tolist(), strict=True):
        assert result["image"] == str(image)
        got = {entry["label"]: entry["probability"] for entry in result["labels"]}
        assert got == pytest.approx(dict(zip(("cat", "dog", "fox"), row, strict=True)), abs=1e-6)
        order = [entry["probability"] for entry in result["labels"]]
        assert order == sorted(order, reverse=True)


def test_top_and_template_and_labels_file(model_folder, image_folder, tmp_path, capsys):
    labels = tmp_path / "labels.txt"
    labels.write_text("dog\n\ncat\ndog\n")
    arguments = [image_folder / "a.png", "--labels-file", labels, "--model", model_folder, "--json"]
    _, default = run([*arguments, "--top", "1"], capsys)
    _, other = run([*arguments, "--template", "one {}", "--template", "two {}"], capsys)
    assert [len(result["labels"]) for result in json.loads(default.out)] == [1]
    found = json.loads(other.out)[0]["labels"]
    assert sorted(entry["label"] for entry in found) == ["cat", "dog"]
    model = clipfast.load(model_folder)
    expected = model.classify(
        [image_folder / "a.png"], ["dog", "cat"], templates=["one {}", "two {}"]
    )
    got = {entry["label"]: entry["probability"] for entry in found}
    assert [got["dog"], got["cat"]] == pytest.approx(expected[0].tolist(), abs=1e-6)


def test_a_broken_image_is_reported_and_the_others_are_scored(model_folder, image_folder, capsys):
    good, broken = image_folder / "a.png", image_folder / "broken.jpg"
    arguments = [broken, good, "--labels", "dog,cat", "--model", model_folder]
    code, captured = run([*arguments, "--json"], capsys)
    assert code == 3
    first, second = json.loads(captured.out)
    assert first["error"]["code"] == "truncated_image"
    assert "labels" not in first
    assert np.isclose(sum(entry["probability"] for entry in second["labels"]), 1, atol=1e-5)
    code, captured = run(arguments, capsys)
    assert code == 3
    assert captured.err.startswith(f"{broken}: truncated_image: ")
    assert str(broken) not in captured.out


def test_the_table_lines_up(model_folder, image_folder, capsys):
    arguments = [image_folder / "a.png", "--labels", "dog,a long label", "--model", model_folder]
    _, captured = run(arguments, capsys)
    header, *rows = captured.out.splitlines()
    column = header.index("probability")
    assert header.split() == ["image", "label", "probability"]
    assert len(rows) == 2
    assert {len(row) for row in rows} == {column + len("probability")}
    assert all(row.endswith("%") for row in rows)


def test_no_labels_is_a_usage_error(image_folder, capsys):
    code, captured = run([image_folder / "a.png", "--labels", " ,"], capsys)
    assert code == 2
    assert "--labels" in captured.err
