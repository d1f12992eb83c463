"""Several runs into one gpu.json: what is measured again takes the place of what was, what is not stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.results import added, merged, merged_rows, read, summary, write


def run(*rows: dict[str, Any], device: str = "A GPU", ok: bool = True) -> dict[str, Any]:
    done = {"ok": ok, "seconds": 1.0, "rows": list(rows)}
    sections = {"engine": added(None, "engine x 1", done)}
    return {"device": device, "rehearsal": False, "runs": [{}], "sections": sections}


def late(name: str) -> dict[str, Any]:
    return {"name": name, "outcome": "not measured: out of time"}


def test_rows_of_two_runs() -> None:
    first = run({"name": "a", "ms": 1.0}, {"name": "b", "ms": 1.0}, late("c"), late("d"), ok=False)
    second = run({"name": "b", "ms": 2.0}, late("a"), {"name": "c", "ms": 2.0}, late("e"))
    whole = merged(first, second)
    rows = whole["sections"]["engine"]["rows"]
    assert [(row["name"], row.get("ms"), row["run"]) for row in rows] == [
        ("a", 1.0, 0), ("b", 2.0, 1), ("c", 2.0, 1), ("d", None, 0), ("e", None, 1),
    ]  # fmt: skip
    assert len(whole["runs"]) == 2
    assert [task["ok"] for task in whole["sections"]["engine"]["tasks"]] == [False, True]
    assert [row["run"] for row in merged(whole, second)["sections"]["engine"]["rows"]] == [
        0, 2, 2, 0, 2,
    ]  # fmt: skip


def test_sections_of_either_run_stay() -> None:
    first, second = run({"name": "a"}), run({"name": "b"})
    second["sections"] = {"kernels": second["sections"]["engine"]}
    assert set(merged(first, second)["sections"]) == {"engine", "kernels"}


@pytest.mark.parametrize("key", ["device", "rehearsal"])
def test_runs_of_different_devices_do_not_go_together(key: str) -> None:
    with pytest.raises(ValueError, match=f"do not go together: {key}"):
        merged(run(), {**run(), key: "another"})


def test_a_failure_is_the_last_word_and_a_cell_left_out_is_not() -> None:
    measured = {"name": "a", "ms": 1.0}
    failed = {"name": "a", "ok": False, "said": "wrong"}
    assert merged_rows([measured], [failed]) == [failed]
    assert merged_rows([measured], [late("a")]) == [measured]
    assert merged_rows([late("a")], [measured]) == [measured]
    assert merged_rows([], [late("a")]) == [late("a")]


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    assert read(path) == {}
    write(run(), path)
    assert read(path) == json.loads(path.read_text()) == run()
    assert list(tmp_path.iterdir()) == [path]


def test_summary_has_a_line_a_cell_and_the_engine_last() -> None:
    cell = {"ms": 2.0, "items/s": 500, "of matmul": "60%", "run": 0}
    whole = run(
        {"name": "x batch 1, clipfast bf16", **cell},
        {"name": "x batch 1, clipfast fp8", "ok": False, "said": "first\nan illegal address"},
        {"name": "x batch 1, timm", "outcome": "not measured: it is not installed"},
        late("x batch 8"),
        ok=False,
    )
    whole["sections"]["kernels"] = added(
        None, "kernels", {"ok": True, "seconds": 3.0, "rows": [{"name": "k", "ms": "9" * 500}]}
    )
    lines = summary(whole).splitlines()
    assert lines[0] == "kernels: ok in 3.0 s"
    assert lines[1].startswith("  k: ms 999")
    assert len(lines[1]) < 200
    ours = "clipfast bf16 500/s 2.0 ms 60% | clipfast fp8 FAILED an illegal address"
    assert lines[2:] == [
        "engine x 1: FAILED in 1.0 s",
        f"  x batch 1: {ours} | timm not measured: it is not installed",
        "  x batch 8: outcome not measured: out of time",
    ]
