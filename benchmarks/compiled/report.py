"""What the two reports share: their options, what they find wrong, and how it is printed."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

from benchmarks.compiled.budgets import Budgets, Figures, over_budget


@dataclass(frozen=True)
class Judged:
    """A compiled kernel. figures: what budgets hold. faults: what the gates say. table: its other figures, in words."""

    name: str
    figures: Figures
    faults: list[str]
    table: str


Found = dict[str, list[Judged]]


def read_options(
    doc: str | None, architectures: tuple[str, ...], arguments: list[str] | None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=doc.splitlines()[0] if doc else None)
    parser.add_argument("--archs", nargs="+", default=architectures, choices=architectures)
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true")
    action.add_argument("--tighten", action="store_true")
    action.add_argument("--loosen", metavar="REASON")
    action.add_argument("--faults", action="store_true")
    return parser.parse_args(arguments)


def judge(found: Found, budgets: Budgets, options: argparse.Namespace) -> list[str]:
    """Everything that is wrong, after the budgets were written where that was asked for."""
    if options.tighten or options.loosen:
        measured = {
            architecture: {kernel.name: kernel.figures for kernel in kernels}
            for architecture, kernels in found.items()
        }
        budgets.write(measured, options.loosen)
    if caution := budgets.caution():
        print(caution)
    faults = []
    for architecture, kernels in found.items():
        held = budgets.of(architecture)
        for kernel in kernels:
            wrong = list(kernel.faults)
            if held is not None:
                wrong += over_budget(kernel.figures, held.get(kernel.name))
            faults += [f"sm_{architecture} {kernel.name}: {fault}" for fault in wrong]
    return faults


def print_report(found: Found, faults: list[str], options: argparse.Namespace) -> int:
    """Prints the table (not under --check), the count and the faults; returns the command's exit status."""
    for architecture, kernels in found.items() if not options.check else ():
        for kernel in kernels:
            figures = "  ".join(f"{word} {value}" for word, value in kernel.figures.items())
            print(f"sm_{architecture} {kernel.name}  {figures}  {kernel.table}")
    counts = ", ".join(f"sm_{name} {len(kernels)}" for name, kernels in found.items())
    print(f"kernels: {counts}; faults: {len(faults)}")
    print(*faults, sep="\n", end="\n" if faults else "", file=sys.stderr)
    return 1 if options.check and faults else 0
