"""One weight file, or its shards, as named tensors: the container is told by its first bytes, not by its name."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

import torch

from clipfast.checkpoint.declaration import read_json
from clipfast.checkpoint.safetensors_file import read_safetensors
from clipfast.checkpoint.state_dict import wrapper_prefix
from clipfast.checkpoint.torch_legacy import read_torch_legacy
from clipfast.checkpoint.torch_zip import read_torch_zip
from clipfast.errors import CheckpointError


@dataclass(frozen=True)
class RawWeights:
    """Tensors under the names that the file gives them (wrappers' prefixes dropped), as memory-mapped views."""

    tensors: dict[str, torch.Tensor]
    is_torchscript: bool = False


def read_weights(path: Path) -> RawWeights:
    """The tensors of a weight file (.safetensors, .pt, .pth, .bin) or of the shards that a .index.json lists.

    Nothing in the file is executed. Raises: CheckpointError naming the file and what is wrong with it.
    """
    is_torchscript = False
    if path.name.endswith(".index.json"):
        tensors = _read_shards(path)
    else:
        tensors, is_torchscript = _read_file(path)
    prefix = wrapper_prefix(tensors)
    return RawWeights(
        {name[len(prefix) :]: tensor for name, tensor in tensors.items()}, is_torchscript
    )


def _read_file(path: Path) -> tuple[dict[str, torch.Tensor], bool]:
    head = _first_bytes(path)
    if (
        head[8:9] == b"{"
    ):  # before the others: a safetensors file begins with a length, which may be any bytes
        return read_safetensors(path), False
    if head.startswith(b"PK\x03\x04"):
        return read_torch_zip(path)
    if head.startswith(b"\x80"):
        return read_torch_legacy(path), False
    raise CheckpointError(
        f"{path}: {_what_else(head)}; expected .safetensors, or a torch .pt, .pth or .bin file"
    )


def _first_bytes(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError(f"{path}: not a regular file")
        with path.open("rb") as file:
            return file.read(64)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error


def _what_else(head: bytes) -> str:
    """What a file that is no weight container seems to be."""
    if not head:
        return "the file is empty"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the weights themselves (run `git lfs pull`)"
    if head.startswith(b"GGUF"):
        return "a GGUF file (clip.cpp), a family that is not supported yet"
    if head.lstrip().startswith((b"<", b"{")):
        return "text (HTML or JSON), not weights"
    return "not a weight file that clipfast knows"


def shard_files(index: Path) -> dict[str, str]:
    """Tensor name -> file name, as a .index.json lists them; every file is one beside the index.

    Raises: CheckpointError when the index is broken or names files elsewhere.
    """
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(file, str) for file in where.values()):
        raise CheckpointError(f"{index}: expected a weight_map from tensor names to file names")
    for file in where.values():
        if Path(file).name != file:
            raise CheckpointError(f"{index}: shard {file[:200]!r} is not a file beside the index")
    return where


def _read_shards(index: Path) -> dict[str, torch.Tensor]:
    where = shard_files(index)
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(set(where.values())):
        shard, _ = _read_file(index.parent / file)
        twice = tensors.keys() & shard.keys()
        if twice:
            raise CheckpointError(f"{index}: tensor {min(twice)!r} is in two shards")
        tensors.update(shard)
    if tensors.keys() != where.keys():
        wrong = sorted(tensors.keys() ^ where.keys())
        raise CheckpointError(
            f"{index}: the index and its shards disagree about {', '.join(wrong[:8])}"
        )
    return tensors
