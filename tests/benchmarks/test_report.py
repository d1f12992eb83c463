from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from PIL import ImageColor

from benchmarks import report
from benchmarks.chart import Bar, draw_chart, figure


def cell(peer, ours, theirs, low, coverage=0.96, batch=32, model="ViT-B-32"):
    ratio = {"median": ours / theirs, "low": low, "high": 1.2, "coverage": coverage, "pairs": 20}
    return {
        "fullname": f"benchmarks/test_images.py::test_images[{model}-bf16-{batch}-{peer}]",
        "extra_info": {
            "work": {"task": "images", "model": model, "precision": "bf16", "batch": batch},
            "ours": {"items_per_second": ours, "percent_of_peak": 91.2, "cosine": 0.99999},
            "peer": {"name": peer, "items_per_second": theirs},
            "ratio": ratio,
        },
    }


DOCUMENT = {
    "machine_info": {
        "cpu": "Some CPU",
        "cpu_family": "25",
        "cpu_model": "17",
        "gpu": {},
        "affinity": 2,
        "versions": {"torch": "2.13.0"},
    },
    "benchmarks": [
        cell("openvino", 48.0, 45.0, 1.05),
        cell("transformers", 50.0, 36.0, 0.99, coverage=0.75),
        cell("openvino", 41.0, 40.0, 1.01, batch=1),
    ],
    "absent": {
        "benchmarks/test_images.py::test_images[ViT-B-32-bf16-32-torch_compile]": "torch_compile: not installed: x",
        "benchmarks/test_images.py::test_images[ViT-B-32-int8-32-torchao]": "clipfast: no int8 yet",
    },
}


def test_table():
    text = report.tables_of(DOCUMENT)
    assert "### Some CPU (family 25 model 17), 2 cores, torch 2.13.0" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[part.strip() for part in line.strip("|").split("|")] for line in lines]
    assert cells[0] == [
        *("model", "precision", "batch", "clipfast", "% of peak", "cosine"),
        *("openvino", "transformers", "torch_compile"),
    ]
    assert cells[2][:7] == [
        "ViT-B-32",
        "bf16",
        "1",
        "41",
        "91%",
        "0.999990",
        "40 (**1.02x**, 1.01 to 1.20)",
    ]
    assert cells[3] == [
        *("ViT-B-32", "bf16", "32", "49", "91%", "0.999990"),
        "45 (**1.07x**, 1.05 to 1.20)",
        "36 (1.39x, of 20 pairs)",
        "not installed: x",
    ]
    assert len(cells) == 4
    assert "Not measured: clipfast: no int8 yet" in text


def test_figures():
    assert [figure(x) for x in (0.03371, 4.3449, 99.94, 4281.6)] == [
        "0.0337",
        "4.34",
        "99.9",
        "4,282",
    ]


def test_bars_are_of_the_largest_batch():
    bars = list(report.bars_of(DOCUMENT))
    group = "ViT-B-32, bf16, batch 32"
    assert bars == [
        Bar(group, "clipfast", 49.0, ours=True),
        Bar(group, "openvino", 45.0),
        Bar(group, "transformers", 36.0),
    ]


def test_bars_are_as_long_as_their_values():
    image = draw_chart("title", [Bar("g", "ours", 40.0, ours=True), Bar("g", "peer", 10.0)])
    ours, theirs = ImageColor.getrgb("#d4442e"), ImageColor.getrgb("#b9c2cc")
    pixels = np.asarray(image)
    longest = {c: (pixels == c).all(axis=2).sum(axis=1).max() for c in (ours, theirs)}
    assert longest[ours] > 500
    assert longest[theirs] / longest[ours] == pytest.approx(0.25, abs=0.01)


def test_tables_go_between_the_markers():
    text = "a\n<!-- benchmarks -->\nold\n<!-- /benchmarks -->\nb\n"
    written = report.between_markers(text, "new")
    assert written == "a\n<!-- benchmarks -->\nnew\n<!-- /benchmarks -->\nb\n"
    assert report.between_markers(written, "new") == written
    with pytest.raises(ValueError, match="found not both"):
        report.between_markers("a", "new")


def test_the_command_writes_tables_and_a_chart(tmp_path, monkeypatch, capsys):
    def run(*options):
        monkeypatch.setattr(sys, "argv", ["report", "--results", str(tmp_path), *map(str, options)])
        report.main()
        return capsys.readouterr().out

    (tmp_path / "machine.json").write_text(json.dumps(DOCUMENT))
    readme, chart = tmp_path / "README.md", tmp_path / "speed.png"
    readme.write_text("<!-- benchmarks -->\n<!-- /benchmarks -->\n")
    assert run("--write", readme, "--chart", chart) == ""
    assert "| ViT-B-32 | bf16 | 32 | 49 |" in readme.read_text()
    assert chart.read_bytes().startswith(b"\x89PNG")
    assert run().strip() in readme.read_text()
    (tmp_path / "machine.json").unlink()
    with pytest.raises(SystemExit) as end:
        run()
    assert end.value.code == 1
    assert "make bench" in capsys.readouterr().err
