"""Committed budgets of compiled kernels: figures that only shrink, unless a reason is written beside them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Figures = dict[str, Any]
# Kernel -> its figures.
Table = dict[str, Figures]


@dataclass(frozen=True)
class Budgets:
    """A file {tool: its version, "budgets": {architecture: {kernel: figures}}}.

    version: of the compiler that is installed; the budgets of another one say nothing about its output.
    """

    file: Path
    tool: str
    version: str | None

    def of(self, architecture: str) -> Table | None:
        """An architecture's budgets; None where they are of another version of the compiler."""
        held = self._read()
        return held["budgets"].get(architecture, {}) if held[self.tool] == self.version else None

    def caution(self) -> str | None:
        """A sentence when the budgets do not apply."""
        held = self._read()[self.tool]
        if held == self.version:
            return None
        return f"budgets are for {self.tool} {held}, this is {self.version}: gates only"

    def write(self, measured: dict[str, Table], reason: str | None) -> None:
        """Lowers budgets to what was measured; raises them only with a reason, which is kept."""
        known = self._read()["budgets"]
        for architecture, kernels in measured.items():
            old = known.get(architecture, {})
            known[architecture] = {
                name: _merged(figures, old.get(name), reason) for name, figures in kernels.items()
            }
        tables = []
        for architecture in sorted(known, key=lambda word: int(word.rstrip("a"))):
            entries = ",\n".join(
                f"   {json.dumps(name)}: {json.dumps(figures)}"
                for name, figures in known[architecture].items()
            )
            tables.append(f'  "{architecture}": {{\n{entries}\n  }}')
        body = ",\n".join(tables)
        self.file.write_text(
            f'{{\n "{self.tool}": "{self.version}",\n "budgets": {{\n{body}\n }}\n}}\n'
        )

    def _read(self) -> dict[str, Any]:
        if not self.file.exists():
            return {self.tool: None, "budgets": {}}
        held: dict[str, Any] = json.loads(self.file.read_text())
        return held


def over_budget(figures: Figures, budget: Figures | None) -> list[str]:
    """Which figures exceed their budget, in words."""
    if budget is None:
        return ["no budget: run --tighten"]
    return [
        f"{figures[word]} {word}; the budget is {budget[word]}"
        for word in figures
        if figures[word] > budget[word]
    ]


def _merged(figures: Figures, old: Figures | None, reason: str | None) -> Figures:
    if old is None:
        return figures
    kept = {"reason": old["reason"]} if "reason" in old else {}
    if reason is not None and over_budget(figures, old):
        return {**figures, "reason": reason}
    return {word: min(figures[word], old[word]) for word in figures} | kept
