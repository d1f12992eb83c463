"""gpu.json: what runs have found, of several runs the last word on each row, and a summary of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.gpu.processes import Row

Results = dict[str, Any]
# Rows of these are contestants of cells: "cell, contestant".
_OF_CONTESTANTS = ("outliers", "texts", "engine")
_WIDTH = 150


def read(path: Path) -> Results:
    """A file's results; none where there is no file."""
    return json.loads(path.read_text()) if path.exists() else {}


def write(results: Results, path: Path) -> None:
    """All at once: a run that is killed leaves the file before or after, not half of it."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1) + "\n")
    part.replace(path)


def merged(earlier: Results, later: Results) -> Results:
    """Both runs' rows; of a row that both have the later one, unless that one was not measured.

    Raises: ValueError when they are of different devices, or one of them is a rehearsal.
    """
    if not earlier:
        return later
    for key in ("device", "rehearsal"):
        if earlier.get(key) != later.get(key):
            said = f"{earlier.get(key)} and {later.get(key)}"
            raise ValueError(f"results of different runs do not go together: {key} {said}")
    before = len(earlier["runs"])
    sections = dict(earlier["sections"])
    for name, entry in later["sections"].items():
        rows = [{**row, "run": row["run"] + before} for row in entry["rows"]]
        known = sections.get(name, {"rows": [], "tasks": []})
        sections[name] = {
            "ok": entry["ok"],
            "rows": merged_rows(known["rows"], rows),
            "tasks": [*known["tasks"], *entry["tasks"]],
        }
    return {**later, "runs": [*earlier["runs"], *later["runs"]], "sections": sections}


def merged_rows(earlier: list[Row], later: list[Row]) -> list[Row]:
    """A row a name, in the order of their first words; the last one that was measured, else the last one."""
    rows = {row["name"]: row for row in earlier}
    for row in later:
        before = rows.setdefault(row["name"], row)
        if _is_known(row) or not _is_known(before):
            rows[row["name"]] = row
    return list(rows.values())


def added(entry: dict[str, Any] | None, task: str, done: dict[str, Any]) -> dict[str, Any]:
    """A section's entry with one more task's outcome, as `runner.run_section` gives it."""
    entry = entry or {"ok": True, "rows": [], "tasks": []}
    told = {key: value for key, value in done.items() if key != "rows"}
    rows = [{**row, "run": 0} for row in done["rows"]]
    return {
        "ok": entry["ok"] and done["ok"],
        "rows": merged_rows(entry["rows"], rows),
        "tasks": [*entry["tasks"], {"name": task, **told}],
    }


def summary(results: Results) -> str:
    """What failed and every timed row, a line a row or a cell; the engine last."""
    lines = []
    sections = results["sections"]
    for section in sorted(sections, key=lambda name: name == "engine"):
        entry = sections[section]
        for task in entry["tasks"]:
            state = "ok" if task["ok"] else "FAILED"
            lines.append(f"{task['name']}: {state} in {task['seconds']} s")
            lines += [_cut(f"  {task['said'].splitlines()[-1]}")] if "said" in task else []
        of_contestants = section in _OF_CONTESTANTS
        lines += _cells(entry["rows"]) if of_contestants else map(_line, entry["rows"])
    return "\n".join(lines)


def _is_known(row: Row) -> bool:
    return not str(row.get("outcome", "")).startswith("not ")


def _line(row: Row) -> str:
    hidden = ("name", "ok", "said", "run", "lost")
    words = [] if row.get("ok", True) else [f"FAILED {_last(row)}".strip()]
    words += [f"{key} {row[key]}" for key in row if key not in hidden]
    return _cut(f"  {row['name']}: {', '.join(words)}")


def _cells(rows: list[Row]) -> list[str]:
    """A line a cell: each contestant's rate, or its milliseconds' cause not to have one."""
    found: dict[str, list[str]] = {}
    for row in rows:
        cell, _, contestant = row["name"].rpartition(", ")
        if not cell:
            found[row["name"]] = [_line(row).partition(": ")[2]]
        else:
            found.setdefault(cell, []).append(f"{contestant} {_figure(row)}")
    return [f"  {cell}: {' | '.join(figures)}" for cell, figures in found.items()]


def _figure(row: Row) -> str:
    if not row.get("ok", True):
        return f"FAILED {_last(row)[:60]}"
    if "items/s" in row:
        share = "".join(f" {row[key]}" for key in row if key.startswith("of "))
        time = f" {row['ms']} ms" if "ms" in row else ""
        return f"{row['items/s']}/s{time}{share}"
    return str(row.get("outcome", row.get("cosine", "ok")))[:60]


def _last(row: Row) -> str:
    said = str(row.get("said", "")).strip().splitlines()
    return said[-1] if said else f"{row.get('cosine', '')}"


def _cut(line: str) -> str:
    return line if len(line) <= _WIDTH else f"{line[:_WIDTH]}..."
