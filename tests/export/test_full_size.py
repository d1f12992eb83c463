"""Full-size towers through export's own verification."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipfast.config import ARCHITECTURES
from clipfast.export.onnx import export_onnx
from tests.export.graphs import random_checkpoint

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-L-14", "RN50"])
def test_full_size(name: str, dtype, tmp_path: Path) -> None:
    report = export_onnx(
        random_checkpoint(ARCHITECTURES[name]), tmp_path, dtype=dtype, batch=(1, 2, 7)
    )
    for tower in report.towers:
        parity = tower.parity
        assert parity.passed
        assert [entry.batch for entry in parity.batches] == [1, 2, 7]
        print(
            f"{name} {dtype} {tower.tower}: {tower.bytes / 1e6:.0f} MB, {tower.nodes} nodes, "
            f"1 - cosine {1 - parity.cosine_min:.1e}, neighbours {parity.neighbours}"
        )
