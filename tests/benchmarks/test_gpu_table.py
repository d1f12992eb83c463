"""From gpu.json to README: every figure is the file's, what was not measured says so, a rehearsal has no table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.table import cells, main, plot, table


def row(name: str, ms: float, rate: int) -> dict[str, Any]:
    return {"name": name, "ok": True, "ms": ms, "items/s": rate, "cosine": "1 - 1.0e-05"}


@pytest.fixture
def results() -> dict[str, Any]:
    rows = [
        {"name": "torch.matmul 8192^3 bf16", "TFLOPS": 700},
        row("ViT-L-14 batch 49, clipfast bf16", 12.5, 3920),
        row("ViT-L-14 batch 49, clipfast fp8", 8.0, 6125),
        row("ViT-L-14 batch 49, torch.compile", 20.0, 2450),
        row("ViT-L-14 batch 49, torch.compile fp8", 10.0, 4900),
        row("ViT-L-14 batch 1, clipfast bf16", 0.4, 2500),
        {"name": "ViT-L-14 batch 128", "outcome": "not measured"},
        {"name": "ViT-L-14 1024 from JPEG, clipfast bf16", "items/s": 1000},
    ]
    return {
        "rehearsal": False,
        "device": "A GPU",
        "versions": {"torch": "2.13"},
        "sections": {"engine": {"rows": rows}},
    }


def test_table_has_the_file_s_figures_and_no_other(results: dict[str, Any]) -> None:
    lines = table(results).splitlines()
    assert lines[0] == "Images/s on A GPU, torch 2.13, random weights."
    assert lines[4] == "| ViT-L-14 | 49 | 3,920 | 6,125 | 2,450 | 4,900 | 1.60x, fp8 1.25x |"
    assert lines[5] == (
        "| ViT-L-14 | 1 | 2,500 | not measured | not measured | not measured | not measured |"
    )
    assert len(lines) == 6


def test_only_measured_cells_count(results: dict[str, Any]) -> None:
    assert [(cell.batch, cell.contestant) for cell in cells(results)][-1] == (1, "clipfast bf16")
    assert len(cells(results)) == 5


def test_a_rehearsal_has_no_table(results: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a rehearsal has no figures"):
        table({**results, "rehearsal": True})


def test_plot_places_faster_batches_higher(results: dict[str, Any]) -> None:
    image = plot(results, "ViT-L-14")
    ours = {
        (x, y)
        for x in range(image.width)
        for y in range(120, image.height)
        if image.getpixel((x, y)) == (0xD4, 0x44, 0x2E)
    }
    left, right = min(ours), max(ours)
    assert right[1] < left[1]  # 49 images take longer, and are more a second
    with pytest.raises(ValueError, match=r"no batch of ViT-B-32 was measured"):
        plot(results, "ViT-B-32")


def test_command(
    results: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gpu.json").write_text(json.dumps(results))
    assert main([str(tmp_path / "gpu.json"), "--plot", str(tmp_path / "gpu.png")]) == 0
    assert "| ViT-L-14 | 49 | 3,920 |" in capsys.readouterr().out
    assert (tmp_path / "gpu.png").stat().st_size > 1000


def test_command_puts_runs_together(results: dict[str, Any], tmp_path: Path) -> None:
    results["runs"] = [{}]
    engine = results["sections"]["engine"]
    engine |= {"ok": True, "tasks": [], "rows": [{**row, "run": 0} for row in engine["rows"]]}
    again = json.loads(json.dumps(results))
    again["sections"]["engine"]["rows"] = [{**row("ViT-L-14 batch 1, timm", 1.0, 1000), "run": 0}]
    paths = [tmp_path / name for name in ("first.json", "second.json", "merged.json")]
    for path, written in zip(paths, (results, again), strict=False):
        path.write_text(json.dumps(written))
    assert main([*map(str, paths[:2]), "--merged", str(paths[2])]) == 0
    whole = json.loads(paths[2].read_text())
    assert [cell.contestant for cell in cells(whole) if cell.batch == 1] == [
        "clipfast bf16",
        "timm",
    ]
    assert len(whole["runs"]) == 2
