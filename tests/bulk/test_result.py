"""What was written, read back: by us, by numpy and parquet as clip-retrieval does, and searched by the example."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import clipfast
from clipfast.bulk import Settings, embed, read
from clipfast.errors import ClipfastError, ConfigurationError

EXAMPLE = Path(__file__).parents[2] / "examples/search.py"


@pytest.fixture(scope="module")
def output(model, photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("output")
    embed(model, [photos], folder, Settings(batch_size=8, shard_size=7))
    return folder


def test_search_equals_that_over_one_matrix(model, output):
    result = read(output, verify=True)
    assert all(isinstance(rows, np.memmap) for rows in result.images)
    gallery = np.concatenate(result.images)
    assert len(result) == len(gallery) == 60
    queries = model.encode_images([result.metadata(row)["image_path"] for row in (3, 31, 59)])
    for k in (1, 5, 60):
        scores, rows = result.top_k(queries, k)
        expected_scores, expected_rows = clipfast.top_k(queries, gallery, k)
        torch.testing.assert_close(scores, expected_scores, rtol=0, atol=0)
        torch.testing.assert_close(rows, expected_rows, rtol=0, atol=0)
    assert result.top_k(queries, 1)[1].flatten().tolist() == [3, 31, 59]


def test_equal_rows_come_lowest_first(model, photos, tmp_path):
    (tmp_path / "same.txt").write_text(f"{photos / '000007.jpg'}\n" * 20)
    embed(model, [tmp_path / "same.txt"], tmp_path / "out", Settings(batch_size=4, shard_size=4))
    query = model.encode_images([str(photos / "000007.jpg")])
    assert read(tmp_path / "out").top_k(query, 6)[1].tolist() == [[0, 1, 2, 3, 4, 5]]


def test_what_cannot_be_read_says_so(model, photos, output, tmp_path):
    with pytest.raises(ClipfastError, match=r"holds no job\.json"):
        read(tmp_path)
    result = read(output)
    with pytest.raises(ConfigurationError, match="at most 60"):
        result.top_k(model.encode_texts(["x"]), 61)
    with pytest.raises(ConfigurationError, match="holds no texts"):
        result.top_k(model.encode_texts(["x"]), 1, modality="texts")
    with pytest.raises(ConfigurationError, match="row 60"):
        result.metadata(60)
    copy = tmp_path / "copy"
    embed(model, [photos], copy, Settings(batch_size=8, shard_size=30))
    rows = copy / "img_emb/img_emb_00001.npy"
    data = bytearray(rows.read_bytes())
    data[-1] ^= 1
    rows.write_bytes(data)
    assert len(read(copy)) == 60
    with pytest.raises(ClipfastError, match="sha256 differs"):
        read(copy, verify=True)
    rows.write_bytes(data[:-2])
    with pytest.raises(ClipfastError, match="bytes where"):
        read(copy)
    (copy / "done/done_00001.json").unlink()
    with pytest.raises(ClipfastError, match="1 of 2 shards"):
        read(copy)
    assert len(read(copy, partial=True)) == 30


def test_a_reader_of_clip_retrievals_layout(output):
    """Files of a kind in name order, rows of the arrays against rows of the tables: autofaiss and clip-retrieval."""
    arrays = sorted(path.name for path in (output / "img_emb").iterdir())
    tables = sorted(path.name for path in (output / "metadata").iterdir())
    assert len(arrays) == len(tables) == 9
    rows, names = [], []
    for array, table in zip(arrays, tables, strict=True):
        assert array.replace("img_emb", "metadata")[:-4] == table[: -len(".parquet")]
        rows.append(np.load(output / "img_emb" / array, allow_pickle=False))
        columns = pq.read_table(output / "metadata" / table)
        names += columns.column("image_path").to_pylist()
        assert len(columns) == len(rows[-1])
    matrix = np.concatenate(rows)
    assert matrix.dtype == np.float16
    assert np.linalg.norm(matrix.astype(np.float32), axis=1) == pytest.approx(np.ones(60), abs=1e-3)
    assert names == sorted(names)


def test_the_example_finds_the_image_itself(model_folder, photos, output, monkeypatch, capsys):
    query = str(photos / "000042.jpg")
    monkeypatch.setattr(sys, "argv", ["search.py", str(output), model_folder, query, "-k", "3"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    first = capsys.readouterr().out.splitlines()[0].split()
    assert first[-1] == query
    assert float(first[0]) > 0.99
    assert len(EXAMPLE.read_text().splitlines()) <= 40
