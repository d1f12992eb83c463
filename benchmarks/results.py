"""The results files: merging a run into one, and comparing a run with one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# A cell is behind when even the upper end of its interval stays this far below the committed median.
_SLACK = 0.97


def read(path: Path) -> dict[str, Any] | None:
    """A results file, or None when there is none yet."""
    if not path.is_file():
        return None
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def merge(run: dict[str, Any], absent: dict[str, str], previous: dict[str, Any] | None) -> None:
    """Complete a run's document in place: absences, each cell's own commit, date and versions, older cells.

    absent: cell -> why it was not measured.
    """
    for cell in run["benchmarks"]:
        cell["commit"] = run["commit_info"]
        cell["datetime"] = run["datetime"]
        cell["versions"] = run["machine_info"]["versions"]
        cell["stats"].pop("data", None)  # every round's seconds: the quartiles are kept
        cell.pop("params", None)
        cell.pop("options", None)
    measured = {cell["fullname"] for cell in run["benchmarks"]}
    older = previous or {"benchmarks": [], "absent": {}}
    kept = [
        cell
        for cell in older["benchmarks"]
        if cell["fullname"] not in measured and cell["fullname"] not in absent
    ]
    run["benchmarks"] = sorted(run["benchmarks"] + kept, key=lambda cell: str(cell["fullname"]))
    still_absent = {name: why for name, why in older["absent"].items() if name not in measured}
    run["absent"] = dict(sorted((still_absent | absent).items()))


def behind(baseline: dict[str, Any] | None, measured: list[dict[str, Any]]) -> list[str]:
    """A sentence for each cell where ours fell behind its peer by more than noise since the baseline."""
    known = {cell["fullname"]: cell for cell in (baseline or {"benchmarks": []})["benchmarks"]}
    sentences = []
    for cell in measured:
        if cell["fullname"] not in known or "ratio" not in cell["extra_info"]:
            continue
        now, then = cell["extra_info"]["ratio"], known[cell["fullname"]]["extra_info"]["ratio"]
        if now["high"] < _SLACK * then["median"]:
            sentences.append(
                f"{cell['fullname']}: {now['median']:.2f}x its peer "
                f"({now['low']:.2f} to {now['high']:.2f}), committed {then['median']:.2f}x"
            )
    return sentences
