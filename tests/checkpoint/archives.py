"""Torch archives and pickles written by hand, so that a test can put anything into them."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tests.weights import Weights, random_weights, save_as, tiny

PREFIX = "archive"


def write_archive(
    path: Path,
    pickle: bytes,
    storages: dict[str, bytes] | None = None,
    *,
    extra: dict[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """A zip as torch.save lays it out: data.pkl, data/<key>, and what `extra` names (full entry names)."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(f"{PREFIX}/data.pkl", pickle)
        for key, data in (storages or {}).items():
            archive.writestr(f"{PREFIX}/data/{key}", data)
        for name, data in (extra or {}).items():
            archive.writestr(name, data)
    return path


def tensor_pickle(
    *,
    name: str = "weight",
    storage: str = "FloatStorage",
    key: str = "0",
    numel: int = 4,
    offset: int = 0,
    size: tuple[int, ...] = (4,),
    stride: tuple[int, ...] = (1,),
) -> bytes:
    """A state dict of one tensor, with any storage and geometry."""
    return assemble(
        f"X {name} c torch._utils:_rebuild_tensor_v2 ( ( X storage c torch:{storage} X {key} X cpu "
        f"I {numel} t Q I {offset} {_ints(size)} {_ints(stride)} 0 c collections:OrderedDict ) R t R s",
        prefix="}",
    )


def _ints(values: tuple[int, ...]) -> str:
    return "( " + "".join(f"I {value} " for value in values) + "t"


_SIMPLE = {
    "}": b"}", "]": b"]", "(": b"(", ")": b")", "t": b"t", "Q": b"Q", "R": b"R", "s": b"s", "u": b"u", "b": b"b",
    "0": b"\x89", "1": b"\x88", "N": b"N", "a": b"a", "e": b"e", "new": b"\x81",
}  # fmt: skip


def assemble(program: str, *, prefix: str = "") -> bytes:
    """A protocol 2 pickle from words: `X text`, `I int`, `c module:name`, `put n`, `get n`, or an opcode."""
    out = bytearray(b"\x80\x02")
    words = iter(f"{prefix} {program}".split())
    for word in words:
        if word == "X":
            text = next(words).encode()
            out += b"X" + struct.pack("<I", len(text)) + text
        elif word == "I":
            value = int(next(words))
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            out += b"\x8a" + bytes([len(data)]) + data
        elif word == "c":
            module, name = next(words).split(":")
            out += f"c{module}\n{name}\n".encode()
        elif word in ("put", "get"):
            out += (b"r" if word == "put" else b"j") + struct.pack("<I", int(next(words)))
        else:
            out += _SIMPLE[word]
    return bytes(out) + b"."


def write_safetensors(path: Path, header: dict[str, Any] | bytes, data: bytes = b"") -> Path:
    """A safetensors file with exactly this header and data."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)
    return path


def tiny_weights(**changes: torch.Tensor | None) -> Weights:
    """The canonical weights of `tiny()`; keywords (dots as double underscores) replace a tensor, or drop it."""
    weights = dict(_unchanged())
    for key, tensor in changes.items():
        name = key.replace("__", ".")
        if tensor is None:
            del weights[name]
        else:
            weights[name] = tensor
    return weights


@cache
def _unchanged() -> Weights:
    return random_weights(tiny())


def save_tiny(folder: Path, **changes: torch.Tensor | None) -> Path:
    """`tiny()` with changes, as a safetensors file beside its open_clip_config.json."""
    return save_as("open_clip_directory", tiny_weights(**changes), tiny(), folder)


def torch_bytes(value: Any, **options: Any) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()
