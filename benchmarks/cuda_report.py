"""Every kernel of csrc/cuda, compiled without a GPU, judged by gates and a committed budget.

python -m benchmarks.cuda_report                         a table of all kernels
python -m benchmarks.cuda_report --check --archs 90a     exit 1 when a gate or a budget is broken
python -m benchmarks.cuda_report --tighten               lower the budgets to what is measured, add new kernels
python -m benchmarks.cuda_report --loosen "REASON"       raise them to what is measured, the reason kept beside each
python -m benchmarks.cuda_report --faults                seed a fault for every gate; exit 1 when one goes unseen

The gates are compiled/cuda_gates.py; budgets hold registers, shared memory of the largest launch, accesses narrower
than 16 bytes, and the parts into which branches divide the products. They find the wrong path and the kernel that
cannot launch; not races, not speed.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.compiled.budgets import Budgets
from benchmarks.compiled.cuda_design import blocks_a_multiprocessor
from benchmarks.compiled.cuda_gates import figures, gates, launches_of
from benchmarks.compiled.cuda_kernels import Kernel, compile_kernels, compiler, sources
from benchmarks.compiled.report import Judged, judge, print_report, read_options

ARCHITECTURES = ("80", "89", "90a", "100a", "120a")
BUDGET_FILE = Path(__file__).parent / "compiled" / "cuda_budgets.json"


def measure(architecture: str) -> list[Kernel]:
    """Every kernel for one architecture, two sources at a time."""
    with ThreadPoolExecutor(2) as pool:
        compiled = pool.map(lambda source: compile_kernels(source, architecture), sources())
        return [kernel for kernels in compiled for kernel in kernels]


def table(kernel: Kernel) -> str:
    """What a kernel's line has beside the figures of its budget."""
    blocks = [
        f"{launch.what}: {blocks_a_multiprocessor(kernel, launch)} blocks"
        for launch in launches_of(kernel)
    ]
    words = [f"HMMA {kernel.products}", f"spills {kernel.spills}", f"local {kernel.local}"]
    words += [f"{width}: {count}" for width, count in kernel.accesses.items()]
    return "  ".join(words + blocks)


def examine(architecture: str) -> list[Judged]:
    """Every kernel of an architecture: its figures, what its gates say, and its line of the table."""
    return [
        Judged(kernel.name, figures(kernel), gates(kernel), table(kernel))
        for kernel in measure(architecture)
    ]


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = read_options(__doc__, ARCHITECTURES, arguments)
    if compiler() is None:
        print("nvcc is not installed: nothing was compiled", file=sys.stderr)
        return 4
    if options.faults:
        from benchmarks.compiled.cuda_faults import FAULTS
        from benchmarks.compiled.faults import seed_all

        return seed_all(FAULTS)
    found = {architecture: examine(architecture) for architecture in options.archs}
    return print_report(
        found, judge(found, Budgets(BUDGET_FILE, "nvcc", compiler()), options), options
    )


if __name__ == "__main__":
    sys.exit(main())
