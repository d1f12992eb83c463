from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

import clipfast
from clipfast.cli import main
from clipfast.cli.outcome import Exit


def run(arguments, capsys):
    code = main(["embed", *map(str, arguments)])
    return code, capsys.readouterr()


def test_layout_rows_and_summary(model_folder, image_folder, tmp_path, capsys):
    (image_folder / "broken.jpg").unlink()
    out = tmp_path / "out"
    code, captured = run(
        [image_folder, "-o", out, "--model", model_folder, "--precision", "fp32", "--json"], capsys
    )
    assert code == 0
    summary = json.loads(captured.out)
    assert summary["rows"] == summary["items"] == summary["planned_items"] == 3
    assert summary["errors"] == {}
    assert summary["peak_bytes"] > 50e6
    assert summary["bottleneck"] in summary["stages"]
    images = [str(image_folder / name) for name in ("a.png", "b.jpg", "sub/c.png")]
    metadata = pq.read_table(out / "metadata/metadata_00000.parquet")
    assert metadata.to_pydict() == {"image_path": images, "item": [0, 1, 2]}
    rows = np.load(out / "img_emb/img_emb_00000.npy")
    expected = clipfast.load(model_folder, precision="fp32").encode_images(images).numpy()
    np.testing.assert_array_equal(rows, expected.astype(np.float16))
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert files == [
        "done/done_00000.json",
        "img_emb/img_emb_00000.npy",
        "job.json",
        "manifest.json",
        "metadata/metadata_00000.parquet",
    ]


def test_a_broken_image_is_in_the_errors_only(model_folder, image_folder, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [image_folder, "-o", out, "--model", model_folder]
    code, captured = run(arguments, capsys)
    assert code == Exit.ITEM_ERRORS
    assert captured.out.startswith(f"3 embeddings in {out} ")
    assert captured.out.endswith("1 errors: 1 truncated_image\n")
    assert captured.err.startswith("clipfast embed: 4 items in 1 inputs, 1 shards\n")
    errors = pq.read_table(out / "errors/errors_00000.parquet").to_pydict()
    assert errors["image_path"] == [str(image_folder / "broken.jpg")]
    assert (errors["item"], errors["code"]) == ([2], ["truncated_image"])
    names = pq.read_table(out / "metadata/metadata_00000.parquet").to_pydict()
    assert names["item"] == [0, 1, 3]
    rows = np.load(out / "img_emb/img_emb_00000.npy")
    assert np.linalg.norm(rows.astype(np.float32), axis=1) == pytest.approx(np.ones(3), abs=1e-3)

    assert run(arguments, capsys)[0] == Exit.ITEM_ERRORS  # it still has no embedding
    (image_folder / "broken.jpg").write_bytes((image_folder / "b.jpg").read_bytes())
    code, captured = run([*arguments, "--retry-failed"], capsys)
    assert code == 0
    assert not (out / "errors/errors_00000.parquet").exists()


def test_a_list_on_standard_input(model_folder, image_folder, tmp_path, capsys, monkeypatch):
    lines = f"{image_folder / 'b.jpg'}\n\n{image_folder / 'a.png'}\n".encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))
    out = tmp_path / "out"
    options = ["--model", model_folder, "--format", "npy", "--log-json", "--embed", "images"]
    code, captured = run(["-", "-o", out, *options], capsys)
    assert code == 0
    assert json.loads(captured.err.splitlines()[0])["items"] == 2
    rows = [json.loads(line) for line in (out / "metadata/metadata_00000.jsonl").open()]
    assert [row["image_path"] for row in rows] == [
        str(image_folder / "b.jpg"),
        str(image_folder / "a.png"),
    ]


def test_nothing_to_do_is_a_failure(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    code, captured = run([tmp_path / "empty", "-o", tmp_path / "out"], capsys)
    assert code == 1
    assert "nothing to embed was found" in captured.err
    code, captured = run([tmp_path / "absent", "-o", tmp_path / "out"], capsys)
    assert code == 1
    assert "No such file or directory" in captured.err


@pytest.mark.parametrize(
    ("variables", "options", "shards"),
    [
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, [], ["done_00001.json", "done_00003.json"]),
        ({"RANK": "0", "WORLD_SIZE": "3"}, [], ["done_00000.json", "done_00003.json"]),
        ({"RANK": "0", "WORLD_SIZE": "3"}, ["--num-shards", "4", "--shard-index", "2"], ["done_00002.json"]),
    ],
)  # fmt: skip
def test_which_process_this_is(
    variables, options, shards, model_folder, image_folder, tmp_path, capsys, monkeypatch
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    out = tmp_path / "out"
    arguments = [image_folder, "-o", out, "--model", model_folder, "--shard-size", 1]
    run([*arguments, *options], capsys)
    assert sorted(path.name for path in (out / "done").iterdir()) == shards


def test_a_process_number_that_is_none_is_a_usage_error(
    image_folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("RANK", "first")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, captured = run([image_folder, "-o", tmp_path / "out"], capsys)
    assert code == Exit.USAGE
    assert "RANK='first'" in captured.err
    process = ["--num-shards", 2, "--shard-index", 2]
    assert run([image_folder, "-o", tmp_path / "out", *process], capsys)[0] == Exit.USAGE


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, Exit.INTERRUPTED), (signal.SIGTERM, Exit.TERMINATED)]
)
def test_a_signal_drops_the_shard_and_says_what_is_left(
    number, code, model_folder, image_folder, tmp_path
):
    out = tmp_path / "out"
    listed = tmp_path / "list.txt"
    listed.write_text(f"{image_folder / 'a.png'}\n" * 200_000)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "clipfast.cli", "embed", listed, "-o", out),
            *("--model", model_folder, "--shard-size", "64", "--json"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    assert "200,000 items" in process.stderr.readline()
    while not (out / "done/done_00001.json").exists():
        assert process.poll() is None
    process.send_signal(number)
    printed, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    summary = json.loads(printed)
    assert 0 < summary["rows"] < 200_000
    assert "run it again to go on" in said
    left = [path for path in out.rglob("*") if path.name.endswith((".tmp", ".lock", ".jsonl"))]
    assert not left
    done = len(list((out / "done").iterdir()))
    assert done == len(list((out / "img_emb").iterdir())) == len(list((out / "metadata").iterdir()))
    assert summary["rows"] == 64 * done
