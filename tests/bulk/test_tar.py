"""Tar archives: Python's tarfile writes them, our index finds the same samples and bytes."""

from __future__ import annotations

import gzip
import io
import json
import tarfile

import pytest

from clipfast.bulk import Plan, Settings, embed, find_sources, read
from clipfast.bulk.item import read_caption, read_image
from clipfast.errors import InputError
from tests.bulk.conftest import draw


def write_tar(path, members, form=tarfile.PAX_FORMAT, mode="w"):
    with tarfile.open(path, mode, format=form) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def items(paths, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    plan = Plan(find_sources([str(path) for path in paths], scratch), 10)
    return list(plan.items(0, plan.count))


SAMPLES = [
    ("000.jpg", b"image 0"),
    ("000.txt", b"caption 0\n"),
    ("000.json", b'{"caption": "not this one"}'),
    ("folder/001.json", b'{"caption": "caption 1"}'),
    ("folder/001.PNG", b"image 1"),
    ("x" * 150 + "/002.webp", b"image 2" * 100),
    ("caf\u00e9.jpg", b"image 3"),
    ("README", b"no sample"),
    ("info.json", b"{}"),
    ("004.cls", b"7"),
    ("004.img", b""),
]
NAMES = ["000", "folder/001", "x" * 150 + "/002", "caf\u00e9", "004"]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_samples_are_what_was_written(form, suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    write_tar(path, SAMPLES, form, "w" if suffix == "tar" else "w:gz")
    found = items([path, path], tmp_path)
    assert [item.name for item in found] == [f"{path}/{name}" for name in NAMES] * 2
    images = [read_image(item) for item in found]
    assert images[:5] == [b"image 0", b"image 1", b"image 2" * 100, b"image 3", b""]
    assert [read_caption(item) for item in found[5:7]] == ["caption 0", "caption 1"]
    with pytest.raises(InputError, match="no caption"):
        read_caption(found[2])


def test_any_slice_of_several_archives(tmp_path):
    paths = [
        write_tar(tmp_path / f"{n}.tar", [(f"{k}.jpg", f"{n}/{k}".encode()) for k in range(n)])
        for n in (3, 0, 4)
    ]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    source = find_sources([str(path) for path in paths], scratch)[0]
    every = [f"{n}/{k}".encode() for n in (3, 4) for k in range(n)]
    for start in range(8):
        for stop in range(start, 8):
            assert [read_image(item) for item in source.items(start, stop)] == every[start:stop]


def test_repeated_keys_and_captions_alone(tmp_path):
    members = [
        ("a.jpg", b"1"),
        ("a.jpg", b"2"),
        ("a.txt", b"two"),
        ("b.txt", b"alone"),
        ("a.png", b"3"),
    ]
    found = items([write_tar(tmp_path / "a.tar", members)], tmp_path)
    assert [item.name.rpartition("/")[2] for item in found] == ["a", "a", "b", "a"]
    assert [read_image(found[k]) for k in (0, 1, 3)] == [b"1", b"2", b"3"]
    with pytest.raises(InputError, match="a caption and no image"):
        read_image(found[2])


def test_links_devices_and_hostile_names_are_never_followed(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for kind in (
            tarfile.SYMTYPE,
            tarfile.LNKTYPE,
            tarfile.CHRTYPE,
            tarfile.DIRTYPE,
            tarfile.FIFOTYPE,
        ):
            info = tarfile.TarInfo(f"kind{ord(kind)}.jpg")
            info.type = kind
            info.linkname = "/etc/passwd"
            archive.addfile(info)
        for name in ("../up.jpg", "/etc/root.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
    found = items([path], tmp_path)
    assert [item.name for item in found] == [f"{path}/../up", f"{path}//etc/root"]
    assert [read_image(item) for item in found] == [
        b"abc",
        b"abc",
    ]  # bytes of the archive, not of a file


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_what_comes_before_a_cut_is_kept(suffix, tmp_path):
    whole = write_tar(tmp_path / "a.tar", [(f"{k}.jpg", bytes([k]) * 1000) for k in range(4)])
    data = whole.read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    # 4 members of 512 + 1024 bytes: in the third's header, in its data, and right behind it
    for length, good in ((2 * 1536 + 100, 2), (2 * 1536 + 700, 2), (3 * 1536, 3)):
        part = data[:length]
        cut.write_bytes(
            part if suffix == "tar" else gzip.compress(part)[: None if good == 3 else -9]
        )
        found = items([cut], tmp_path)
        read_well = [item for item in found if failure(item) is None]
        assert {failure(item).code for item in found if item not in read_well} <= {
            "unreadable_file"
        }
        assert [read_image(item) for item in read_well] == [bytes([k]) * 1000 for k in range(good)]
        assert len(found) > good or good == 3


def failure(item):
    try:
        read_image(item)
    except InputError as error:
        return error
    return None


def test_noise_and_enormous_headers(tmp_path):
    noise = tmp_path / "noise.tar"
    noise.write_bytes(b"no archive" * 1000)
    empty = tmp_path / "empty.tar"
    empty.write_bytes(b"")
    found = items([noise, empty], tmp_path)
    assert [failure(item).code for item in found] == ["unreadable_file"]
    header = tarfile.TarInfo("PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 1 << 40  # a pax header of a terabyte
    bomb = tmp_path / "bomb.tar"
    bomb.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + b"x" * 2048)
    assert items([bomb], tmp_path) == []
    large = tarfile.TarInfo("large.jpg")
    large.size = 9 << 30  # base-256 size
    bomb.write_bytes(large.tobuf(tarfile.GNU_FORMAT))
    (item,) = items([bomb], tmp_path)
    with pytest.raises(InputError) as raised:
        read_image(item)
    assert raised.value.code == "image_too_large"


def test_a_job_from_archives_with_captions(model, tmp_path):
    folder = draw(tmp_path / "images", 20)
    members = []
    for path in sorted(folder.iterdir()):
        members += [
            (path.name, path.read_bytes()),
            (f"{path.stem}.txt", f"picture {path.stem}".encode()),
        ]
    members[9] = ("000004.json", json.dumps({"caption": "from json"}).encode())
    write_tar(tmp_path / "0.tar", members[:22])
    write_tar(tmp_path / "1.tar", members[22:])
    settings = Settings(modalities=("images", "texts"), batch_size=8, shard_size=12)
    embed(model, [tmp_path / "{0..1}.tar"], tmp_path / "tars", settings)
    for path in folder.iterdir():
        said = "from json" if path.stem == "000004" else f"picture {path.stem}"
        path.with_suffix(".txt").write_text(said)
    embed(model, [folder], tmp_path / "files", settings)
    tars, files = read(tmp_path / "tars"), read(tmp_path / "files")
    for name in (
        "img_emb/img_emb_00000.npy",
        "img_emb/img_emb_00001.npy",
        "text_emb/text_emb_00001.npy",
    ):
        assert (tmp_path / "tars" / name).read_bytes() == (tmp_path / "files" / name).read_bytes()
    assert len(tars) == len(files) == 20
    assert tars.metadata(4)["caption"] == files.metadata(4)["caption"] == "from json"
    assert tars.metadata(19)["image_path"] == f"{tmp_path}/1.tar/000019"
