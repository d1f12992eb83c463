"""Every kernel of csrc/cuda, compiled without a GPU, judged by gates and a committed budget.

python -m benchmarks.cuda_report                         a table of all kernels
python -m benchmarks.cuda_report --check --archs 90a     exit 1 when a gate or a budget is broken
python -m benchmarks.cuda_report --tighten               lower the budgets to what is measured, add new kernels
python -m benchmarks.cuda_report --loosen "REASON"       raise them to what is measured, the reason kept beside each
python -m benchmarks.cuda_report --faults                seed a fault for every gate; exit 1 when one goes unseen

Gates: no warning of nvcc or ptxas (each is an error), no spills, no stack, no local memory, tensor-core instructions
where there are products and nowhere else, only the declared widths of global memory, and as many blocks a
multiprocessor as each launch is designed for. Budgets: registers, shared memory of the largest launch, and accesses
narrower than 16 bytes. They find the wrong path and the kernel that cannot launch; not races, not speed.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.cuda_compiled import Change, Kernel, compile_kernels, compiler, sources
from benchmarks.cuda_design import Launch, blocks_a_multiprocessor, family, launches

ARCHITECTURES = ("80", "89", "90a", "100a", "120a")
BUDGET_FILE = Path(__file__).parent / "cuda_budgets.json"

Figures = dict[str, Any]


def gates(kernel: Kernel, changes: tuple[Change, ...] = ()) -> list[str]:
    """What is wrong with a compiled kernel, in words; nothing when all gates hold. changes: a seeded fault's."""
    faults = []
    if kernel.spills or kernel.stack or kernel.local:
        faults.append(
            f"{kernel.spills} bytes spilled, {kernel.stack} bytes of stack, {kernel.local} accesses of local memory;"
            " expected 0"
        )
    design = family(kernel)
    if (kernel.products > 0) != design.products:
        expected = "some" if design.products else "none"
        faults.append(f"{kernel.products} tensor-core instructions; expected {expected}")
    used = kernel.accesses
    faults += [
        f"accesses '{width}'; not declared" for width in used if width not in design.accesses
    ]
    if design.accesses and design.accesses[0] not in used:
        faults.append(f"no access '{design.accesses[0]}'; declared")
    return faults + _too_few_blocks(kernel, changes)


def _too_few_blocks(kernel: Kernel, changes: tuple[Change, ...]) -> list[str]:
    return [
        f"{blocks} blocks a multiprocessor at {launch.what}; designed for {launch.blocks}"
        for launch in _launches(kernel, changes)
        if (blocks := blocks_a_multiprocessor(kernel, launch)) < launch.blocks
    ]


def _launches(kernel: Kernel, changes: tuple[Change, ...] = ()) -> list[Launch]:
    name = kernel.name.replace("Bfloat16", "T").replace("Float16", "T")
    return launches(int(kernel.architecture.rstrip("a")), changes).get(name, [])


def figures(kernel: Kernel) -> Figures:
    """What budgets hold of a kernel."""
    narrow = sum(n for width, n in kernel.accesses.items() if not width.endswith(" 16"))
    shared = max((launch.shared for launch in _launches(kernel)), default=0) + kernel.shared
    return {"registers": kernel.registers, "shared": shared, "narrow": narrow}


def over_budget(measured: Figures, budget: Figures | None) -> list[str]:
    """Which figures exceed their budget, in words."""
    if budget is None:
        return ["no budget: run --tighten"]
    return [
        f"{measured[word]} {word}; the budget is {budget[word]}"
        for word in measured
        if measured[word] > budget[word]
    ]


def measure(architecture: str) -> list[Kernel]:
    """Every kernel for one architecture, two sources at a time."""
    with ThreadPoolExecutor(2) as pool:
        compiled = pool.map(lambda source: compile_kernels(source, architecture), sources())
        return [kernel for kernels in compiled for kernel in kernels]


def read_budgets() -> dict[str, Any]:
    """The committed budgets: {"nvcc": version, "budgets": {architecture: {kernel: figures}}}."""
    if not BUDGET_FILE.exists():
        return {"nvcc": None, "budgets": {}}
    budgets: dict[str, Any] = json.loads(BUDGET_FILE.read_text())
    return budgets


def write_budgets(measured: dict[str, list[Kernel]], reason: str | None) -> None:
    """Lowers budgets to what was measured; raises them only with a reason, which is kept."""
    known = read_budgets()["budgets"]
    for architecture, kernels in measured.items():
        old = known.get(architecture, {})
        known[architecture] = {
            kernel.name: _merged(figures(kernel), old.get(kernel.name), reason)
            for kernel in kernels
        }
    lines = []
    for architecture in sorted(known, key=lambda word: int(word.rstrip("a"))):
        entries = ",\n".join(
            f"   {json.dumps(name)}: {json.dumps(entry)}"
            for name, entry in known[architecture].items()
        )
        lines.append(f'  "{architecture}": {{\n{entries}\n  }}')
    body = ",\n".join(lines)
    BUDGET_FILE.write_text(f'{{\n "nvcc": "{compiler()}",\n "budgets": {{\n{body}\n }}\n}}\n')


def _merged(measured: Figures, old: Figures | None, reason: str | None) -> Figures:
    if old is None:
        return measured
    kept = {"reason": old["reason"]} if "reason" in old else {}
    if reason is not None and over_budget(measured, old):
        return {**measured, "reason": reason}
    return {word: min(measured[word], old[word]) for word in measured} | kept


def judge(kernels: list[Kernel], budgets: dict[str, Figures] | None) -> list[str]:
    """Everything that is wrong; without budgets, by the gates alone."""
    return [
        f"sm_{kernel.architecture} {kernel.name}: {fault}"
        for kernel in kernels
        for fault in gates(kernel)
        + ([] if budgets is None else over_budget(figures(kernel), budgets.get(kernel.name)))
    ]


def row(kernel: Kernel) -> str:
    """One line of the table."""
    blocks = [
        f"{launch.what}: {blocks_a_multiprocessor(kernel, launch)} blocks"
        for launch in _launches(kernel)
    ]
    words = [f"{word} {value}" for word, value in figures(kernel).items()]
    words += [f"HMMA {kernel.products}", f"spills {kernel.spills}", f"local {kernel.local}"]
    words += [f"{width}: {count}" for width, count in kernel.accesses.items()]
    return f"sm_{kernel.architecture} {kernel.name}  " + "  ".join(words + blocks)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--archs", nargs="+", default=ARCHITECTURES, choices=ARCHITECTURES)
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true")
    action.add_argument("--tighten", action="store_true")
    action.add_argument("--loosen", metavar="REASON")
    action.add_argument("--faults", action="store_true")
    options = parser.parse_args(arguments)
    if compiler() is None:
        print("nvcc is not installed: nothing was compiled", file=sys.stderr)
        return 4
    if options.faults:
        from benchmarks.cuda_faults import seed_all

        return seed_all()
    measured = {architecture: measure(architecture) for architecture in options.archs}
    if options.tighten or options.loosen:
        write_budgets(measured, options.loosen)
    committed = read_budgets()
    same = committed["nvcc"] == compiler()
    if not same:
        print(f"budgets are for nvcc {committed['nvcc']}, this is {compiler()}: gates only")
    faults = []
    for architecture, kernels in measured.items():
        budgets = committed["budgets"].get(architecture, {}) if same else None
        faults += judge(kernels, budgets)
        if not options.check:
            print(*map(row, kernels), sep="\n")
    counts = ", ".join(f"sm_{name} {len(kernels)}" for name, kernels in measured.items())
    print(f"kernels: {counts}; faults: {len(faults)}")
    print(*faults, sep="\n", end="\n" if faults else "", file=sys.stderr)
    return 1 if options.check and faults else 0


if __name__ == "__main__":
    sys.exit(main())
