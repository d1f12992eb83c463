"""A loaded model does not hold the pages of the file that it was loaded from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clipfast.checkpoint import load_checkpoint
from clipfast.checkpoint.pages import forget_freed_memory, forget_pages
from clipfast.config import ARCHITECTURES
from tests.weights import load_arguments, random_weights, reduced, save_as

STATUS = Path("/proc/self/status")
pytestmark = pytest.mark.skipif(not STATUS.exists(), reason="reads /proc")


def _held_mb(kind: str) -> float:
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(kind))


def _file_mb() -> float:
    return _held_mb("RssFile")


@pytest.mark.parametrize("layout", ["open_clip_safetensors", "state_dict"])
def test_pages_leave_and_come_back(layout: str, tmp_path: Path) -> None:
    config = reduced(ARCHITECTURES["ViT-B-32"], layers=2)
    path = save_as(layout, random_weights(config), config, tmp_path)
    before = _file_mb()
    checkpoint = load_checkpoint(path, **load_arguments(layout, config))
    fingerprint = checkpoint.fingerprint
    held = _file_mb() - before
    checkpoint.forget_pages()
    left = _file_mb() - before
    print(f"{held:.0f} MB, then {left:.0f} MB")
    assert held > 100
    assert left < 10
    del checkpoint.__dict__["fingerprint"]
    assert checkpoint.fingerprint == fingerprint


def test_ordinary_memory_is_left_alone() -> None:
    tensors = [torch.full((1 << 20,), 3.0), torch.ones(3), torch.empty(0)]
    forget_pages(tensors)
    assert all(tensor.eq(tensor.max()).all() for tensor in tensors[:2])
    assert tensors[0][0] == 3


def test_freed_memory_leaves() -> None:
    before = _held_mb("RssAnon")
    blocks = [torch.ones(1 << 13) for _ in range(6000)]
    last = blocks[-1]
    del blocks  # below the last one, so that the allocator keeps it
    kept = _held_mb("RssAnon") - before
    forget_freed_memory()
    left = _held_mb("RssAnon") - before
    print(f"{kept:.0f} MB, then {left:.0f} MB")
    assert last.eq(1).all()
    assert left < kept / 4
