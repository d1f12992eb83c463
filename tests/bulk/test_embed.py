"""Jobs from a folder: what is written, what a second run does, and what it refuses."""

from __future__ import annotations

import io
import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import pytest

import clipfast
from clipfast.bulk import Progress, Settings, embed, read
from clipfast.bulk.decode import Recipe, decode_items
from clipfast.bulk.item import Item
from clipfast.errors import ClipfastError, ConfigurationError
from tests.bulk.conftest import contents, draw

SMALL = Settings(batch_size=8, shard_size=25)


def markers(output):
    return sorted(path.name for path in (output / "done").iterdir())


def test_rows_are_those_of_encode_images_at_fixed_positions(model, photos, tmp_path):
    summary = embed(model, [photos], tmp_path, SMALL)
    assert (summary.rows, summary.shards, summary.errors) == (60, 3, {})
    paths = [str(path) for path in sorted(photos.iterdir())]
    for number, start in enumerate((0, 25, 50)):
        names = pq.read_table(tmp_path / f"metadata/metadata_{number:05d}.parquet").to_pydict()
        stop = min(start + 25, 60)
        assert names == {"image_path": paths[start:stop], "item": list(range(start, stop))}
        rows = np.load(tmp_path / f"img_emb/img_emb_{number:05d}.npy")
        batches = [paths[at : min(at + 8, stop)] for at in range(start, stop, 8)]
        expected = [model.encode_images(batch).numpy() for batch in batches]
        assert rows.dtype == np.float16
        assert rows.flags.c_contiguous
        np.testing.assert_array_equal(rows, np.concatenate(expected).astype(np.float16))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["complete"]
    assert (manifest["items"], manifest["rows"], manifest["errors"]) == (60, 60, {})
    assert not (tmp_path / "plan").exists()
    assert not list((tmp_path / "locks").iterdir())


def test_a_marker_tells_what_its_shard_holds(model, photos, tmp_path):
    embed(model, [photos], tmp_path, SMALL)
    marker = json.loads((tmp_path / "done/done_00002.json").read_text())
    assert (marker["start"], marker["stop"], marker["rows"], marker["errors"]) == (50, 60, 10, {})
    assert set(marker["files"]) == {
        "img_emb/img_emb_00002.npy",
        "metadata/metadata_00002.parquet",
    }
    for name, written in marker["files"].items():
        assert (tmp_path / name).stat().st_size == written["bytes"]
    assert len(read(tmp_path, verify=True)) == 60


def test_a_second_run_makes_only_what_is_missing(model, photos, tmp_path):
    embed(model, [photos], tmp_path, SMALL)
    before = contents(tmp_path)
    kept = (tmp_path / "done/done_00000.json").stat().st_mtime_ns
    (tmp_path / "done/done_00001.json").unlink()
    rows = tmp_path / "img_emb/img_emb_00002.npy"
    rows.write_bytes(rows.read_bytes()[:-2])  # a damaged shard is as good as none
    summary = embed(model, [photos], tmp_path)  # sizes are what the output was begun with
    assert (summary.items, summary.skipped_items, summary.shards) == (35, 25, 2)
    assert contents(tmp_path) == before
    assert (tmp_path / "done/done_00000.json").stat().st_mtime_ns == kept
    assert embed(model, [photos], tmp_path).items == 0


@pytest.mark.parametrize("workers", [1, 3])
def test_bits_do_not_depend_on_the_number_of_decoders(workers, model, photos, tmp_path):
    embed(model, [photos], tmp_path / "one", SMALL)
    settings = Settings(batch_size=8, shard_size=25, num_workers=workers)
    embed(model, [photos], tmp_path / "two", settings)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_several_processes_make_what_one_makes(model, photos, tmp_path):
    embed(model, [photos], tmp_path / "one", SMALL)
    for index in (1, 0):
        settings = Settings(batch_size=8, shard_size=25, num_shards=2, shard_index=index)
        summary = embed(model, [photos], tmp_path / "two", settings)
        assert summary.shards == (1, 2)[1 - index]
        complete = json.loads((tmp_path / "two/manifest.json").read_text())["complete"]
        assert complete == (index == 0)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (Settings(batch_size=7, shard_size=25), "batch_size was 8 and is 7"),
        (Settings(batch_size=8, shard_size=20), "shard_size was 25 and is 20"),
        (Settings(format="npy"), "format was 'clip-retrieval' and is 'npy'"),
        (Settings(modalities=("images", "texts")), "modalities was"),
    ],
)
def test_another_job_is_refused_in_words(changed, sentence, model, photos, tmp_path):
    embed(model, [photos], tmp_path, SMALL)
    before = contents(tmp_path)
    with pytest.raises(ConfigurationError, match=sentence):
        embed(model, [photos], tmp_path, changed)
    assert contents(tmp_path) == before


def test_other_weights_precision_or_inputs_are_refused_and_overwritten_on_request(
    model, model_folder, photos, tmp_path
):
    copied = tmp_path / "images"
    shutil.copytree(photos, copied)
    out = tmp_path / "out"
    embed(model, [copied], out, SMALL)
    with pytest.raises(ConfigurationError, match="model precision was 'fp32' and is 'fp64'"):
        embed(clipfast.load(model_folder, precision="fp64"), [copied], out)
    draw(copied, 1, first=60)
    with pytest.raises(ConfigurationError, match="items was 60 and is 61"):
        embed(model, [copied], out)
    (copied / "000060.jpg").rename(copied / "x.jpg")
    (copied / "000059.jpg").unlink()
    with pytest.raises(ConfigurationError, match="inputs was"):
        embed(model, [copied], out)
    settings = Settings(batch_size=8, shard_size=40, overwrite=True)
    assert embed(model, [copied], out, settings).shards == 2
    assert markers(out) == ["done_00000.json", "done_00001.json"]
    assert not (out / "img_emb/img_emb_00002.npy").exists()
    assert len(read(out)) == 60
    assert embed(model, [copied], out, settings).shards == 2  # redone, as asked


def test_files_that_no_job_describes_are_not_mixed_with_ours(model, photos, tmp_path):
    (tmp_path / "img_emb").mkdir()
    (tmp_path / "img_emb/img_emb_0.npy").write_bytes(b"someone else's")
    with pytest.raises(ConfigurationError, match=r"no job\.json describes"):
        embed(model, [photos], tmp_path, SMALL)
    (tmp_path / "job.json").write_text("{")
    with pytest.raises(ClipfastError, match="damaged"):
        embed(model, [photos], tmp_path, SMALL)
    (tmp_path / "job.json").write_text('{"version": 99}')
    with pytest.raises(ClipfastError, match="version 99"):
        embed(model, [photos], tmp_path, SMALL)


def test_retrying_gives_the_bits_of_a_run_without_failures(model, photos, tmp_path):
    embed(model, [photos], tmp_path / "good", SMALL)
    copied = tmp_path / "images"
    shutil.copytree(photos, copied)
    bad = [copied / f"{number:06d}.jpg" for number in (3, 11, 40)]
    good = {path: path.read_bytes() for path in bad}
    for path in bad:
        path.write_bytes(b"")
    out = tmp_path / "out"
    assert embed(model, [copied], out, SMALL).errors == {"unidentified_image": 3}
    assert embed(model, [copied], out).failed == 3  # they are not tried again by themselves
    for path in bad[:2]:
        path.write_bytes(good[path])
    summary = embed(model, [copied], out, Settings(retry_failed=True))
    assert summary.items == 8 * 3
    assert (summary.errors, summary.skipped_items) == ({"unidentified_image": 1}, 60 - 24)
    bad[2].write_bytes(good[bad[2]])
    assert embed(model, [copied], out, Settings(retry_failed=True)).failed == 0
    for number in range(3):
        name = f"img_emb/img_emb_{number:05d}.npy"
        assert (out / name).read_bytes() == (tmp_path / "good" / name).read_bytes()
    assert not list((out / "errors").iterdir())


@pytest.mark.parametrize("form", ["npy", "parquet"])
def test_other_formats_hold_the_same(form, model, photos, tmp_path):
    copied = tmp_path / "images"
    shutil.copytree(photos, copied)
    (copied / "000030.jpg").write_bytes(b"not an image")
    (copied / "000002.txt").write_text("a caption that is not asked for")
    embed(model, [copied], tmp_path / "usual", SMALL)
    out = tmp_path / "out"
    embed(model, [copied], out, Settings(batch_size=8, shard_size=25, format=form))
    usual, other = read(tmp_path / "usual"), read(out, verify=True)
    assert [len(rows) for rows in other.images] == [25, 24, 10]
    for one, two in zip(usual.images, other.images, strict=True):
        assert two.dtype == np.float16
        np.testing.assert_array_equal(one, two)
    for row in (0, 29, 30, 58):
        assert usual.metadata(row) == other.metadata(row)
    names = {str(path.parent.relative_to(out)) for path in out.rglob("*.*") if path.is_file()}
    assert (
        names
        == {
            "npy": {".", "done", "img_emb", "metadata", "errors"},
            "parquet": {".", "done", "embeddings", "errors"},
        }[form]
    )
    (copied / "000030.jpg").write_bytes((copied / "000031.jpg").read_bytes())
    embed(model, [copied], out, Settings(format=form, retry_failed=True))
    assert len(read(out)) == 60


@pytest.mark.parametrize("form", ["clip-retrieval", "npy", "parquet"])
def test_a_shard_of_failures_only_has_no_rows_and_no_files_of_rows(form, model, photos, tmp_path):
    copied = tmp_path / "images"
    shutil.copytree(photos, copied)
    for number in range(25, 50):
        (copied / f"{number:06d}.jpg").write_bytes(b"")
    out = tmp_path / "out"
    embed(model, [copied], out, Settings(batch_size=8, shard_size=25, format=form))
    files = sorted(path.name for path in out.rglob("*_00001.*"))
    assert files == ["done_00001.json", f"errors_00001.{'jsonl' if form == 'npy' else 'parquet'}"]
    result = read(out)
    assert len(result) == 35
    assert result.metadata(25)["item"] == 50
    scores, rows = result.top_k(model.encode_images([str(copied / "000055.jpg")]), 2)
    assert rows[0, 0] == 30
    assert scores[0, 0] == pytest.approx(1, abs=2e-3)
    assert embed(model, [copied], out, Settings(format=form)).items == 0
    for number in range(25, 50):
        path = copied / f"{number:06d}.jpg"
        path.write_bytes((photos / path.name).read_bytes())
    embed(model, [copied], out, Settings(format=form, retry_failed=True))
    assert len(read(out)) == 60


def test_texts_with_images_and_alone(model, tmp_path):
    folder = draw(tmp_path / "images", 20)
    for number in range(20):
        (folder / f"{number:06d}.txt").write_text(f"picture number {number}\n")
    (folder / "000004.txt").unlink()
    (folder / "000005.txt").write_bytes(b"\xff\xfe")
    (folder / "000006.jpg").write_bytes(b"")
    (folder / "000007.txt").write_text("many words " * 200)
    out = tmp_path / "both"
    settings = Settings(modalities=("images", "texts"), batch_size=8, shard_size=12)
    summary = embed(model, [folder], out, settings)
    assert summary.errors == {"invalid_text": 2, "unidentified_image": 1}
    captions = [f"picture number {number}" for number in range(20)]
    captions[7] = ("many words " * 200).strip()
    kept = [number for number in range(20) if number not in (4, 5, 6)]
    table = pq.read_table(out / "metadata/metadata_00000.parquet").to_pydict()
    assert table["caption"] == [captions[number] for number in kept if number < 12]
    result = read(out)
    expected = model.encode_texts([captions[number] for number in kept], truncate=True).numpy()
    np.testing.assert_allclose(np.concatenate(result.texts), expected, atol=1e-3)
    assert [len(rows) for rows in result.images] == [len(rows) for rows in result.texts]

    texts = Settings(modalities=("texts",), batch_size=8, shard_size=12)
    summary = embed(model, [folder], tmp_path / "texts", texts)
    assert summary.errors == {"invalid_text": 2}  # the broken image is not read
    assert not (tmp_path / "texts/img_emb").exists()
    assert len(read(tmp_path / "texts")) == 18


def test_names_that_are_no_text_are_kept_readable(model, tmp_path):
    folder = draw(tmp_path / "images", 2)
    (folder / "000001.jpg").rename(folder / os.fsdecode(b"caf\xe9\n.jpg"))
    summary = embed(model, [folder], tmp_path / "out", SMALL)
    assert summary.rows == 2
    assert read(tmp_path / "out").metadata(1)["image_path"].endswith("/caf\\udce9\n.jpg")


def test_rows_that_are_not_finite_are_errors(model, photos, tmp_path, monkeypatch):
    encode = model.encode_images

    def overflowing(pixels, **options):
        rows = encode(pixels, **options)
        rows[0] = float("inf")
        return rows

    monkeypatch.setattr(model, "encode_images", overflowing)
    summary = embed(model, [photos], tmp_path, SMALL)
    assert summary.errors == {"non_finite": 4 + 4 + 2}
    assert len(read(tmp_path)) == 50


def test_the_model_is_loaded_after_the_output_is_locked(photos, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")

    def load():
        raise AssertionError("loaded in vain")

    with pytest.raises(OSError, match="Not a directory"):
        embed(load, [photos], blocked / "out")
    with pytest.raises(FileNotFoundError):
        embed(load, [tmp_path / "absent"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ClipfastError, match="nothing to embed was found"):
        embed(load, [tmp_path / "empty"], tmp_path / "out")


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"num_shards": 2, "shard_index": 2},
        {"format": "csv"},
        {"modalities": ()},
        {"modalities": ("sounds",)},
    ],
)
def test_settings_are_checked(wrong):
    with pytest.raises(ConfigurationError):
        Settings(**wrong)


def test_lines_of_progress(model, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("clipfast.bulk.progress._EVERY", 0.0)
    embed(model, [photos], tmp_path / "silent", SMALL)
    assert capsys.readouterr() == ("", "")
    stream = io.StringIO()
    embed(model, [photos], tmp_path / "out", SMALL, Progress(stream))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "clipfast embed: 60 items in 1 inputs, 3 shards"
    assert lines[1].startswith("clipfast embed: 8/60 (13.3%)  ")
    assert "/s now, " in lines[1]
    assert ", ETA 0:00:0" in lines[1]
    assert lines[1].endswith("-bound")
    assert len(lines) == 1 + 4 + 4 + 2

    stream = io.StringIO()
    progress = Progress(stream, log_json=True)
    embed(model, [photos], tmp_path / "out", SMALL, progress)
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["listed", "resumed"]
    assert progress.as_dict()["skipped_items"] == 60


def test_decoders_read_ahead_but_decode_in_their_turn(model, photos):
    recipe = Recipe(model.config.preprocess, 64)
    items = [Item(str(path), str(path)) for path in sorted(photos.iterdir())[:3]]
    pixels = np.zeros((3, 3, 64, 64), np.uint8)
    turn = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        decoding = pool.submit(decode_items, items, pixels, recipe, turn)
        with pytest.raises(TimeoutError):
            decoding.result(timeout=0.2)
        assert not pixels.any()
        turn.set()
        assert decoding.result().failures == {}
    assert pixels.any(axis=(1, 2, 3)).all()
