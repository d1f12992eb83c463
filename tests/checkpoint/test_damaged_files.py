"""Safetensors headers that lie, files cut short, flipped bytes, and files that are no weights at all."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clipfast.checkpoint import load_checkpoint
from clipfast.errors import CheckpointError
from tests.checkpoint.archives import save_tiny, tiny_weights, torch_bytes, write_safetensors
from tests.weights import open_clip_config, save_as, tiny

F32_PAIR = {
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]},
}


def _entry(**changes):
    return {"a": F32_PAIR["a"], "b": F32_PAIR["b"] | changes}


HEADERS = {
    "overlap": _entry(data_offsets=[4, 12]),
    "hole": _entry(data_offsets=[12, 20]),
    "offsets_past_the_end": _entry(data_offsets=[8, 400], shape=[98]),
    "offsets_backwards": _entry(data_offsets=[16, 8]),
    "negative_offset": _entry(data_offsets=[-8, 0]),
    "shape_of_other_size": _entry(shape=[3]),
    "shape_overflow": _entry(shape=[2**62, 2**62]),
    "negative_shape": _entry(shape=[-2]),
    "unknown_dtype": _entry(dtype="F33"),
    "dtype_of_other_width": _entry(dtype="F64"),
    "no_dtype": {"a": {"shape": [2], "data_offsets": [0, 8]}},
    "not_an_object": b"[1, 2, 3]",
    "not_json": b"{'a': 1}        ",
    "not_utf8": b'{"\xff": 1}      ',
    "duplicate_keys": b'{"a": {"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
    b' "a": {"dtype":"F32","shape":[2],"data_offsets":[8,16]}}',
    "nested_deeply": b"[" * 100_000,
}


def _refused(path: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("case", HEADERS)
def test_safetensors_headers_that_lie(tmp_path, case):
    path = write_safetensors(tmp_path / "model.safetensors", HEADERS[case], bytes(16))
    _refused(path, "truncated or broken|not a weight file")


@pytest.mark.parametrize("length", [0, 1, 10**8 + 1, 2**63, 2**64 - 1])
def test_safetensors_header_lengths_that_lie(tmp_path, length):
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b'{"a":1}' + bytes(1000))
    _refused(path, "truncated or broken")


def test_a_safetensors_header_of_a_hundred_megabytes(tmp_path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 10**8 + 8) + b"{")
        file.truncate(10**8 + 100)
    _refused(path, "truncated or broken")


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "model.bin"])
def test_a_sparse_file_of_four_gigabytes(tmp_path, name):
    path = tmp_path / name
    with path.open("wb") as file:
        file.truncate(4 * 2**30)
    _refused(path, "not a weight file")


def test_a_sparse_tail_behind_a_pickle_and_a_zip_head(tmp_path):
    for name, head in (
        ("a.pt", b"\x80\x02c"),
        ("b.pt", b"PK\x03\x04"),
        ("c.bin", b"\x80\x02X\xff\xff\xff\x7f"),
    ):
        path = tmp_path / name
        with path.open("wb") as file:
            file.write(head)
            file.truncate(2 * 2**30)
        _refused(path, "truncated")


NOT_WEIGHTS = {
    "empty": (b"", "is empty"),
    "html": (b"<!DOCTYPE html><html>404</html>", "text"),
    "json": (b'{"error": "not found"}', "text"),
    "git_lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "gguf": (b"GGUF\x03\x00\x00\x00" + bytes(64), "GGUF"),
    "numpy": (b"\x93NUMPY\x01\x00" + bytes(64), "not a weight file"),
}


@pytest.mark.parametrize("case", NOT_WEIGHTS)
def test_files_that_are_no_weights(tmp_path, case):
    content, match = NOT_WEIGHTS[case]
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    _refused(path, match)


def test_fifos_and_devices_are_not_opened(tmp_path):
    fifo = tmp_path / "model.pt"
    os.mkfifo(fifo)
    _refused(fifo, "not a regular file")
    with pytest.raises(CheckpointError, match="not a regular file"):
        load_checkpoint(Path("/dev/zero"))


LAYOUTS = ("openai_jit", "state_dict", "open_clip_safetensors", "hf")


@pytest.fixture(scope="module", params=[*LAYOUTS, "legacy"])
def intact(request, tmp_path_factory) -> Path:
    """A weight file that loads, in each container."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "legacy":
        path = folder / "model.bin"
        path.write_bytes(torch_bytes(tiny_weights(), _use_new_zipfile_serialization=False))
    else:
        path = save_as(request.param, tiny_weights(), tiny(), folder)
        path = path / "model.safetensors" if path.is_dir() else path
    if request.param != "hf":
        (folder / "open_clip_config.json").write_text(json.dumps(open_clip_config(tiny())))
    return path


def test_the_intact_files_load(intact):
    assert load_checkpoint(intact).tensors.keys() == tiny_weights().keys()


@pytest.mark.parametrize("eighths", range(8))
def test_truncated_files(intact, eighths):
    whole = intact.read_bytes()
    cut = intact.with_name(f"cut-{intact.name}")
    cut.write_bytes(whole[: len(whole) * eighths // 8])
    _refused(cut, "is empty|truncated")
    cut.write_bytes(whole[:-1])
    _refused(cut, "truncated")
    cut.unlink()


def _is_refused(path: Path) -> bool:
    try:
        load_checkpoint(path)
    except CheckpointError as error:
        return str(path) in str(error)
    return False


def test_one_flipped_byte_is_refused_or_harmless(intact):
    """A byte flipped anywhere: refused with an error, or (tensor bytes without a checksum) other finite weights."""
    whole = bytearray(intact.read_bytes())
    flipped = intact.with_name(f"flip-{intact.name}")
    is_zip = whole.startswith(b"PK")
    positions = {0, 1, 7, 8, 9, 30, 64, 100, 300, 1000, len(whole) - 1, len(whole) - 30}
    positions |= {len(whole) * i // 16 for i in range(16)}
    refused = 0
    for position in sorted(positions):
        whole[position] ^= 0x55
        flipped.write_bytes(whole)
        whole[position] ^= 0x55
        refused += _is_refused(flipped)
    flipped.unlink()
    assert refused >= (20 if is_zip else 3)


def test_many_bytes_of_a_small_archive(tmp_path):
    """One byte in three flipped in turn: never another error than CheckpointError, in this process."""
    whole = bytearray(torch_bytes({"weight": torch.arange(6.0).reshape(2, 3)}))
    path = tmp_path / "model.pt"
    for position in range(0, len(whole), 3):
        whole[position] ^= 0xFF
        path.write_bytes(whole)
        whole[position] ^= 0xFF
        with pytest.raises(CheckpointError):
            load_checkpoint(path)


def test_memory_stays_small_on_hostile_sizes(tmp_path):
    """A header that promises 10^12 elements, in a process that may not allocate 4 GB."""
    header = {"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}
    path = write_safetensors(tmp_path / "model.safetensors", header, bytes(64))
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_DATA, (2 * 2**30, 2 * 2**30))\n"
        "from clipfast.checkpoint import load_checkpoint\n"
        "from clipfast.errors import CheckpointError\n"
        "try: load_checkpoint(sys.argv[1])\n"
        "except CheckpointError: print('refused')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "refused", done.stderr


def test_a_missing_file_and_a_missing_shard(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_checkpoint(tmp_path / "absent.pt")
    folder = save_as("hf_sharded", tiny_weights(), tiny(), tmp_path / "hf")
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors: cannot be read"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("index", "match"),
    [
        ('{"weight_map": {"a": "../../etc/passwd"}}', "not a file beside the index"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "not a file beside the index"),
        ('{"weight_map": ["a"]}', "expected a weight_map"),
        ('{"weight_map": {"a": 1}}', "expected a weight_map"),
        ("{}", "expected a weight_map"),
        ("[", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[1]", "expected a JSON object"),
        ('{"weight_map": {"logit_scale": "open_clip_model.safetensors"}}', "disagree about"),
    ],
)
def test_shard_indexes_that_lie(tmp_path, index, match):
    save_tiny(tmp_path)
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(index)
    with pytest.raises(CheckpointError, match=match):
        load_checkpoint(path)


def test_a_tensor_in_two_shards(tmp_path):
    folder = save_as("hf_sharded", tiny_weights(), tiny(), tmp_path)
    (folder / "model-00002-of-00003.safetensors").write_bytes(
        (folder / "model-00001-of-00003.safetensors").read_bytes()
    )
    with pytest.raises(CheckpointError, match="is in two shards"):
        load_checkpoint(folder)
