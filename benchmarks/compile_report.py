"""Every Triton kernel, compiled for every architecture without a GPU, judged by gates and a committed budget.

python -m benchmarks.compile_report                        a table of all kernels
python -m benchmarks.compile_report --check --archs 80 90  exit 1 when a gate or a budget is broken
python -m benchmarks.compile_report --tighten              lower the budgets to what is measured, add new kernels
python -m benchmarks.compile_report --loosen "REASON"      raise them to what is measured, the reason kept beside each
python -m benchmarks.compile_report --faults               seed a fault for every gate; exit 1 when one goes unseen

The gates are compiled/triton_gates.py; budgets hold registers and shared memory. They find the wrong path and the
kernel that cannot launch; not races, not speed.
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import triton

from benchmarks.compiled.budgets import Budgets
from benchmarks.compiled.report import Judged, judge, print_report, read_options
from benchmarks.compiled.triton_cases import Case, cases
from benchmarks.compiled.triton_gates import figures, gates
from benchmarks.compiled.triton_kernels import Compiled, compile_calls

ARCHITECTURES = ("80", "89", "90", "100", "120")
BUDGETS = Budgets(
    Path(__file__).parent / "compiled" / "triton_budgets.json", "triton", triton.__version__
)


def measure(architecture: int) -> dict[str, tuple[Case, Compiled]]:
    """The distinct kernels of all cases, each under the name of the first case that launches it."""
    everything = cases(architecture)
    compiled = compile_calls({name: case.call for name, case in everything.items()}, architecture)
    found: dict[str, tuple[Case, Compiled]] = {}
    seen: set[int] = set()
    for name, kernels in compiled.items():
        for kernel in kernels:
            if id(kernel) not in seen:
                seen.add(id(kernel))
                found[f"{name} | {kernel.kernel}"] = everything[name], kernel
    return found


def examine(architecture: str) -> list[Judged]:
    """Every kernel of an architecture: its figures, what its gates say, and its line of the table."""
    rows = []
    for name, (case, kernel) in measure(int(architecture)).items():
        words = {"warps": kernel.warps, **kernel.products, **kernel.copies}
        table = "  ".join(f"{word} {count}" for word, count in words.items() if count)
        rows.append(Judged(name, figures(kernel), gates(case, kernel), table))
    return rows


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = read_options(__doc__, ARCHITECTURES, arguments)
    if options.faults:
        from benchmarks.compiled.faults import seed_all
        from benchmarks.compiled.triton_faults import FAULTS

        return seed_all(FAULTS)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = dict(zip(options.archs, pool.map(examine, options.archs), strict=True))
    return print_report(found, judge(found, BUDGETS, options), options)


if __name__ == "__main__":
    sys.exit(main())
