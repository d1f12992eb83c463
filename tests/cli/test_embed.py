from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

import clipfast
from clipfast.cli import main
from clipfast.cli.embed import find_images


def run(arguments, capsys):
    code = main(["embed", *map(str, arguments)])
    return code, capsys.readouterr()


def test_layout_and_rows(model_folder, image_folder, tmp_path, capsys):
    (image_folder / "broken.jpg").unlink()
    out = tmp_path / "out"
    code, captured = run(
        [image_folder, "-o", out, "--model", model_folder, "--precision", "fp32", "--json"], capsys
    )
    assert code == 0
    assert json.loads(captured.out) == {
        "output": str(out),
        "model": "tiny",
        "precision": "fp32",
        "images": 3,
        "errors": 0,
        "width": 32,
    }
    images = [str(image_folder / name) for name in ("a.png", "b.jpg", "sub/c.png")]
    metadata = pq.read_table(out / "metadata/metadata_00000.parquet")
    assert metadata.to_pydict() == {"image_path": images}
    rows = np.load(out / "img_emb/img_emb_00000.npy")
    expected = clipfast.load(model_folder, precision="fp32").encode_images(images).numpy()
    assert rows.dtype == np.float16
    assert rows.flags.c_contiguous
    np.testing.assert_array_equal(rows, expected.astype(np.float16))
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert files == ["img_emb/img_emb_00000.npy", "metadata/metadata_00000.parquet"]


def test_a_broken_image_is_in_the_errors_only(model_folder, image_folder, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [image_folder, "-o", out, "--model", model_folder]
    code, captured = run(arguments, capsys)
    assert code == 3
    assert captured.out == f"3 embeddings of width 32 in {out}, 1 errors\n"
    broken = str(image_folder / "broken.jpg")
    assert captured.err.startswith(f"{broken}: truncated_image: ")
    errors = pq.read_table(out / "errors/errors_00000.parquet").to_pydict()
    assert errors["image_path"] == [broken]
    assert errors["code"] == ["truncated_image"]
    names = pq.read_table(out / "metadata/metadata_00000.parquet").to_pydict()["image_path"]
    assert broken not in names
    rows = np.load(out / "img_emb/img_emb_00000.npy")
    assert len(rows) == len(names) == 3
    assert np.linalg.norm(rows.astype(np.float32), axis=1) == pytest.approx(np.ones(3), abs=1e-3)

    (image_folder / "broken.jpg").unlink()
    code, _ = run(arguments, capsys)
    assert code == 0
    assert not (out / "errors/errors_00000.parquet").exists()


def test_files_are_taken_as_they_are_and_folders_are_searched_in_order(image_folder):
    found = find_images([image_folder / "notes.txt", image_folder])
    names = [str(path.relative_to(image_folder)) for path in found]
    assert names == ["notes.txt", "a.png", "b.jpg", "broken.jpg", "sub/c.png"]


def test_nothing_to_do_is_a_failure(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    code, captured = run([tmp_path / "empty", "-o", tmp_path / "out"], capsys)
    assert code == 1
    assert "no image was found" in captured.err
    code, captured = run([tmp_path / "absent", "-o", tmp_path / "out"], capsys)
    assert code == 1
    assert "No such file or directory" in captured.err
    assert not (tmp_path / "out").exists()
