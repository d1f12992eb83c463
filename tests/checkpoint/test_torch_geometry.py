"""Tensors of torch files that do not fit their storage, and views that do."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch

from clipfast.checkpoint import load_checkpoint
from clipfast.checkpoint.weight_file import read_weights
from clipfast.errors import CheckpointError
from tests.checkpoint.archives import tensor_pickle, torch_bytes, write_archive


def _refused(path: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)


GEOMETRY = {
    "negative_offset": ({"offset": -1}, "malformed tensor .offset"),
    "negative_size": ({"size": (-4,)}, "malformed tensor .sizes"),
    "negative_stride": ({"stride": (-1,)}, "malformed tensor .strides"),
    "offset_past_the_end": ({"offset": 1}, "does not fit its storage"),
    "stride_past_the_end": ({"size": (2, 2), "stride": (3, 1)}, "does not fit its storage"),
    "expanded_to_a_gigabyte": ({"size": (10**9,), "stride": (0,)}, "does not fit its storage"),
    "overflowing_shape": ({"size": (2**40, 2**40), "stride": (0, 0)}, "does not fit its storage"),
    "sizes_without_strides": ({"size": (2, 2)}, "malformed tensor .dimensions"),
    "storage_shorter_than_its_elements": ({"numel": 5}, "has 16 bytes, its tensors need 20"),
    "storage_of_a_billion_elements": ({"numel": 10**9, "size": (10**9,)}, "its tensors need 4000000000"),
    "storage_that_is_absent": ({"key": "7"}, "no entry data/7"),
    "storage_of_an_unknown_type": ({"storage": "ComplexFloatStorage"}, "names 'torch.ComplexFloatStorage'"),
}  # fmt: skip


@pytest.mark.parametrize("case", GEOMETRY)
def test_tensors_that_do_not_fit_their_storage(tmp_path, case):
    geometry, match = GEOMETRY[case]
    path = write_archive(tmp_path / "weights.pt", tensor_pickle(**geometry), {"0": bytes(16)})
    _refused(path, match)


def test_overlapping_views_are_read_and_never_written_back(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"weight": torch.tensor([1.0, 2.0, 3.0, 4.0]).as_strided((2, 2), (1, 1))}, path)
    before = path.read_bytes()
    weight = read_weights(path).tensors["weight"]
    assert weight.tolist() == [[1, 2], [2, 3]]
    weight.fill_(9)
    assert path.read_bytes() == before
    assert read_weights(path).tensors["weight"].tolist() == [[1, 2], [2, 3]]


def test_unaligned_storages_are_copied_into_place(tmp_path):
    """An archive that another tool rewrote puts storages anywhere."""
    data = struct.pack("<4f", 1, 2, 3, 4)
    for pad in range(4):
        extra = {"archive/" + "p" * (pad + 1): b""}
        path = write_archive(tmp_path / f"{pad}.pt", tensor_pickle(), {"0": data}, extra=extra)
        weight = read_weights(path).tensors["weight"]
        assert weight.tolist() == [1, 2, 3, 4]
        assert weight.data_ptr() % 4 == 0


@pytest.mark.parametrize("where", ["keys", "numel", "big_endian", "protocol"])
def test_a_legacy_file_whose_parts_disagree(tmp_path, where):
    data = bytearray(torch_bytes({"w": torch.ones(3)}, _use_new_zipfile_serialization=False))
    if where == "keys":  # the pickle after the object: the list of storage keys
        data[data.rindex(b"]q") + 8] ^= 1
    elif where == "numel":
        data[-20] ^= 1
    elif where == "big_endian":
        data = data.replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89")
    else:
        data = data.replace(b"M\xe9\x03.", b"M\xe8\x03.", 1)
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(data))
    match = {
        "keys": "list of storages|truncated",
        "numel": "truncated, or storage",
        "big_endian": "big-endian",
        "protocol": "protocol that is not known",
    }
    _refused(path, match[where])
