"""The kernels' loops compiled for this processor, on the checking machine of tests/cuda/host.

A library is kept under build/ by the hash of its sources, so that only what changed is compiled. `changes` compiles a
copy of the sources in which one line is wrong: the tests' own proof that they see it.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from benchmarks.compiled.cuda_kernels import Change, changed_sources

ROOT = Path(__file__).resolve().parents[2]
HOST = ROOT / "tests" / "cuda" / "host"
CACHE = ROOT / "build" / "cuda_tests"
# The loops are CUDA C++ without built-ins: on a processor its keywords mean nothing.
FLAGS = [
    *("-std=c++17", "-O2", "-fPIC", "-shared", "-ffp-contract=off"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),
    *("-D__device__=", "-D__forceinline__=inline"),
]


@cache
def load(name: str, changes: tuple[Change, ...] = ()) -> ctypes.CDLL:
    """The library of tests/cuda/host/<name>.cpp."""
    return ctypes.CDLL(str(_build(name, changes)))


def _build(name: str, changes: Sequence[Change]) -> Path:
    digest = hashlib.sha256(repr((FLAGS, changes)).encode())
    sources = [*HOST.glob("*.h"), HOST / f"{name}.cpp", *(ROOT / "csrc" / "cuda").glob("*.h")]
    for path in sorted(sources):
        digest.update(path.read_bytes())
    target = CACHE / f"{name}-{digest.hexdigest()[:20]}.so"
    if target.exists():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        include = ROOT / "csrc" if not changes else changed_sources(Path(folder), changes)
        built = Path(folder) / "library.so"
        # One head dim is enough to see a fault in, and five times as quick to compile.
        command = [os.environ.get("CXX", "g++"), *FLAGS, *(["-DONE_HEAD_DIM"] if changes else [])]
        command += [f"-I{include}", f"-I{HOST}"]
        subprocess.run([*command, str(HOST / f"{name}.cpp"), "-o", str(built)], check=True)
        partial = target.with_suffix(f".{os.getpid()}")
        shutil.copy(built, partial)
        partial.replace(target)
    return target


def address(tensor: torch.Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def call(library: ctypes.CDLL, name: str, *arguments: object) -> None:
    """Calls a function that returns what went wrong, or nothing.

    Raises:
        HostError: an access, an ordering or a collective that a GPU leaves undefined.
    """
    function = library[name]
    function.restype = ctypes.c_char_p
    message = function(*arguments)
    if message is not None:
        raise HostError(message.decode())


class HostError(Exception):
    """What the checking machine refused."""
