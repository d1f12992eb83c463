"""Folders, lists, braces and parquet files to items, in the same order every time."""

from __future__ import annotations

import io
import json
import os
import pickle
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipfast.bulk import Plan, find_sources
from clipfast.bulk.item import read_caption, read_image
from clipfast.bulk.pipeline import slots_of
from clipfast.bulk.sources import expand_braces
from clipfast.bulk.spool import DiskSorter, Spool
from clipfast.errors import ConfigurationError, InputError


def sources(inputs, tmp_path, **options):
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    return find_sources([str(path) for path in inputs], scratch, **options)


def items(inputs, tmp_path, **options):
    plan = Plan(sources(inputs, tmp_path, **options), 10)
    return list(plan.items(0, plan.count))


def names(inputs, tmp_path):
    return [item.name for item in items(inputs, tmp_path)]


# ---- folders and lists ---------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "tree"
    for name in ("b.JPG", "a.jpeg", "a.txt", "z/c.png", "m/x/d.webp", "m/e.gif", ".hidden/f.jpg",
                 "@eaDir/a.jpeg", ".g.jpg", "noext", "jpg"):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "link.jpg").symlink_to("b.JPG")
    (folder / "m/loop").symlink_to(folder)
    (folder / "m/loop.jpg").symlink_to(folder)
    (folder / "z/dangling.jpg").symlink_to("absent")
    (folder / "z/self.jpg").symlink_to("self.jpg")
    return folder


FOUND = (
    *("a.jpeg", "b.JPG", "link.jpg", "m/e.gif", "m/x/d.webp"),
    *("z/c.png", "z/dangling.jpg", "z/self.jpg"),
)


def test_a_folder_in_name_order_without_loops(tree, tmp_path):
    assert names([tree], tmp_path) == [f"{tree}/{name}" for name in FOUND]


@pytest.mark.parametrize("held", [1, 2, 3])
def test_folders_too_large_for_memory_come_in_the_same_order(held, tree, tmp_path, monkeypatch):
    expected = names([tree], tmp_path)
    monkeypatch.setattr("clipfast.bulk.spool._SORTED_AT_ONCE", held)
    assert names([tree], tmp_path) == expected


def test_sorting_on_disk_is_sorting(tmp_path, monkeypatch):
    monkeypatch.setattr("clipfast.bulk.spool._SORTED_AT_ONCE", 7)
    rng = random.Random(0)
    words = ["".join(rng.choices('ab\n"\\é\udce9 ', k=rng.randrange(5))) for _ in range(100)]
    sorter = DiskSorter(tmp_path)
    for word in words:
        sorter.add(word)
    assert list(sorter) == sorted(words)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_read_is_an_item_that_fails(tree, tmp_path, monkeypatch):
    scan = os.scandir

    def forbidden(path):
        if path.endswith("/m"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr("os.scandir", forbidden)
    assert f"{tree}/m" in names([tree], tmp_path)
    assert f"{tree}/z/c.png" in names([tree], tmp_path)


def test_lists_of_paths_and_of_objects(tmp_path, monkeypatch):
    plain = tmp_path / "list.txt"
    plain.write_bytes(b"a.jpg\r\n\n  \nb c.png\ncaf\xe9.jpg")
    told = tmp_path / "list.jsonl"
    rows = [{"path": "c.jpg"}, {"image_path": "d.jpg", "caption": "a dog"}, {"url": "x"}]
    told.write_text("\n".join(map(json.dumps, rows)) + "\n{broken\n")
    found = items(
        [plain, told, "e.jpg"] if (tmp_path / "e.jpg").exists() else [plain, told], tmp_path
    )
    assert [item.name for item in found[:5]] == [
        "a.jpg",
        "b c.png",
        "caf\udce9.jpg",
        "c.jpg",
        "d.jpg",
    ]
    assert read_caption(found[4]) == "a dog"
    for item, sentence in zip(found[5:], ["line 3 has none of", "line 4 is no JSON"], strict=True):
        with pytest.raises(InputError, match=sentence):
            read_image(item)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"s.jpg\nt.jpg\n")))
    assert names(["-"], tmp_path) == ["s.jpg", "t.jpg"]


def test_captions_beside_images(tmp_path):
    for name, text in (("a", "one\n"), ("b", None), ("c", b"\xff")):
        (tmp_path / f"{name}.jpg").touch()
        if text is not None:
            path = tmp_path / f"{name}.txt"
            path.write_text(text) if isinstance(text, str) else path.write_bytes(text)
    a, b, c = items([tmp_path / f"{name}.jpg" for name in "abc"], tmp_path)
    assert read_caption(a) == "one"
    for item in (b, c):
        with pytest.raises(InputError) as raised:
            read_caption(item)
        assert raised.value.code == "invalid_text"


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("a.tar", ["a.tar"]),
        ("{000..002}.tar", ["000.tar", "001.tar", "002.tar"]),
        ("{8..10}", ["8", "9", "10"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{a,b}-{0..1}.tar", ["a-0.tar", "a-1.tar", "b-0.tar", "b-1.tar"]),
        ("{x}{1,2}", ["{x}1", "{x}2"]),
        ("{}", ["{}"]),
    ],
)
def test_braces(text, paths):
    assert expand_braces(text) == paths


def test_a_file_whose_name_has_braces_is_itself(tmp_path):
    path = tmp_path / "{1,2}.jpg"
    path.touch()
    assert expand_braces(str(path)) == [str(path)]


# ---- plans ---------------------------------------------------------------------------------------------------------


def test_slices_of_a_spool(tmp_path, monkeypatch):
    monkeypatch.setattr("clipfast.bulk.spool._STRIDE", 4)
    spool = Spool(tmp_path / "spool", ([number, "é\n"] for number in range(23)))
    again = pickle.loads(pickle.dumps(spool))
    for start in range(24):
        for stop in range(start, 24):
            assert [row[0] for row in again.records(start, stop)] == list(range(start, stop))


def test_a_plan_crosses_its_sources(tmp_path):
    for name, count in (("one", 5), ("two", 0), ("three", 4)):
        (tmp_path / f"{name}.txt").write_text("".join(f"{name}{k}\n" for k in range(count)))
    table = pa.table({"path": [f"row{k}" for k in range(6)]})
    pq.write_table(table, tmp_path / "rows.parquet")
    inputs = [tmp_path / name for name in ("one.txt", "two.txt", "rows.parquet", "three.txt")]
    plan = Plan(sources(inputs, tmp_path), 4)
    every = [item.name for item in plan.items(0, 15)]
    assert every == [
        f"{name}{k}" for name, n in (("one", 5), ("row", 6), ("three", 4)) for k in range(n)
    ]
    assert plan.shards == 4
    assert [plan.span(k) for k in range(4)] == [range(4), range(4, 8), range(8, 12), range(12, 15)]
    for start in range(16):
        for stop in range(start, 16):
            assert [item.name for item in plan.items(start, stop)] == every[start:stop]
    assert [list(plan.of_worker(k, 3)) for k in range(3)] == [[0, 3], [1], [2]]


def test_batches_are_cut_at_fixed_positions_of_a_shard(tmp_path):
    (tmp_path / "list.txt").write_text("x\n" * 60)
    plan = Plan(sources([tmp_path / "list.txt"], tmp_path), 25)
    cuts = [[(slot.start, slot.stop) for slot in slots_of(plan, shard, 8)] for shard in range(3)]
    assert cuts[0] == [(0, 8), (8, 16), (16, 24), (24, 25)]
    assert cuts[1] == [(25, 33), (33, 41), (41, 49), (49, 50)]
    assert cuts[2] == [(50, 58), (58, 60)]


def test_the_digest_tells_items_and_order(tmp_path):
    def digest(text):
        (tmp_path / "list.txt").write_text(text)
        return Plan(sources([tmp_path / "list.txt"], tmp_path), 4).digest

    assert digest("a\nb\n") == digest("a\nb")
    assert len({digest(text) for text in ("a\nb", "b\na", "a\nb\nc", "ab")}) == 4


# ---- parquet -------------------------------------------------------------------------------------------------------


def encoded(k):
    return f"image {k}".encode()


@pytest.mark.parametrize(
    "column",
    [
        pa.array([encoded(k) for k in range(50)], pa.binary()),
        pa.array([encoded(k) for k in range(50)], pa.large_binary()),
        pa.array([encoded(k) for k in range(50)]).dictionary_encode(),
        pa.array([{"bytes": encoded(k), "path": f"{k}.jpg"} for k in range(50)]),
    ],
    ids=["binary", "large_binary", "dictionary", "struct"],
)
def test_columns_of_bytes_from_any_row_on(column, tmp_path):
    path = tmp_path / "rows.parquet"
    captions = [f"caption {k}" for k in range(50)]
    pq.write_table(
        pa.table({"image": column, "text": captions, "x": captions}), path, row_group_size=7
    )
    source = pickle.loads(pickle.dumps(sources([path, path], tmp_path)[0]))
    assert source.count == 100
    for start, stop in ((0, 100), (0, 1), (6, 8), (13, 64), (49, 51), (99, 100), (20, 20)):
        found = list(source.items(start, stop))
        assert [read_image(item) for item in found] == [encoded(k % 50) for k in range(start, stop)]
        assert [read_caption(item) for item in found] == [
            captions[k % 50] for k in range(start, stop)
        ]
    assert found[0].name if found else True
    first = next(source.items(3, 4)).name
    assert first == ("3.jpg" if pa.types.is_struct(column.type) else f"{path}#3")


def test_columns_of_paths_and_nulls(tmp_path):
    path = tmp_path / "rows.parquet"
    table = pa.table({"where": ["a.jpg", None], "said": [None, "b"], "n": [1, 2]})
    pq.write_table(table, path)
    a, b = items([path], tmp_path, image_column="where", caption_column="said")
    assert read_image(a) == a.name == "a.jpg"
    with pytest.raises(InputError, match="has no caption"):
        read_caption(a)
    with pytest.raises(InputError, match="image is null"):
        read_image(b)
    for options, sentence in (
        ({}, "expected one of image, bytes"),
        ({"image_column": "x"}, "no image column 'x'; it has where, said, n"),
        ({"image_column": "where", "caption_column": "y"}, "no caption column 'y'"),
        ({"image_column": "n"}, "column 'n' is int64"),
    ):
        with pytest.raises(ConfigurationError, match=sentence):
            sources([path], tmp_path, **options)
    path.write_bytes(b"PAR1 or not")
    with pytest.raises(ConfigurationError, match="is no parquet file"):
        sources([path], tmp_path)


def test_a_damaged_row_group_fails_row_by_row(tmp_path):
    path = tmp_path / "rows.parquet"
    table = pa.table({"image": [os.urandom(2000) for _ in range(60)]})
    pq.write_table(table, path, row_group_size=20, compression="zstd", use_dictionary=False)
    whole = bytearray(path.read_bytes())
    middle = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    whole[middle : middle + 60] = bytes(60)
    path.write_bytes(whole)
    found = items([path], tmp_path)
    assert [item.name for item in found] == [f"{path}#{k}" for k in range(60)]
    assert [read_image(item) for item in found[:20]] == table.column("image").to_pylist()[:20]
    assert [read_image(item) for item in found[40:]] == table.column("image").to_pylist()[40:]
    for item in found[20:40]:
        with pytest.raises(InputError) as raised:
            read_image(item)
        assert raised.value.code == "unreadable_file"
