"""Every kernel, compiled for every architecture without a GPU, judged by gates and a committed budget.

python -m benchmarks.compile_report                        a table of all kernels
python -m benchmarks.compile_report --check --archs 80 90  exit 1 when a gate or a budget is broken
python -m benchmarks.compile_report --tighten              lower the budgets to what is measured, add new kernels
python -m benchmarks.compile_report --loosen "REASON"      raise them to what is measured, the reason kept beside each
python -m benchmarks.compile_report --faults               seed a fault for every gate; exit 1 when one goes unseen

Gates: the class of matrix instructions, 16-byte loads (TMA, cp.async), no spills, no stack, shared memory within the
architecture's limit, no warning of the assembler (serialised wgmma is one). Budgets: registers and shared memory.
They find the wrong path and the kernel that cannot launch; not races, not speed.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import triton

from benchmarks.compile_cases import Case, cases
from benchmarks.compiled import SHARED_LIMIT, Compiled, compile_calls

ARCHITECTURES = (80, 89, 90, 100, 120)
BUDGET_FILE = Path(__file__).parent / "compile_budgets.json"
# Kernels of rows, without a product of matrices.
ROW_KERNELS = {"_layer_norm_kernel", "_attention_pool_kernel", "_softmax_kernel"}
# Kernels whose tiles the tensor memory accelerator carries, where there is one.
TILED_KERNELS = {"_linear_kernel", "_linear_fp8_kernel"}
_WARPGROUP = {80: "mma.sync", 89: "mma.sync", 90: "wgmma", 100: "tcgen05", 120: "mma.sync"}

Found = dict[str, tuple[Case, Compiled]]


def gates(case: Case, compiled: Compiled) -> list[str]:
    """What is wrong with a compiled kernel, in words; nothing when all gates hold."""
    limit = SHARED_LIMIT[compiled.architecture]
    faults = list(compiled.warnings)
    if compiled.spills or compiled.stack:
        faults.append(
            f"{compiled.spills} bytes spilled, {compiled.stack} bytes of stack; expected 0"
        )
    if compiled.shared > limit:
        faults.append(f"{compiled.shared} bytes of shared memory; the limit is {limit}")
    return faults + _wrong_product(case, compiled) + _narrow_loads(case, compiled)


def _wrong_product(case: Case, compiled: Compiled) -> list[str]:
    expected = None
    if compiled.kernel not in ROW_KERNELS and case.product is not None:
        expected = _WARPGROUP[compiled.architecture] if case.product == "warpgroup" else "mma.sync"
    found = {name for name, count in compiled.products.items() if count}
    if found == ({expected} if expected else set()):
        return []
    return [f"matrix instructions {sorted(found) or 'none'}; expected {expected or 'none'}"]


def _narrow_loads(case: Case, compiled: Compiled) -> list[str]:
    if case.narrow:
        return []
    copies = compiled.copies
    wide = copies["tma"] + copies["cp.async 16"]
    if compiled.kernel in ROW_KERNELS:
        wide += copies["ld 16"]
    faults = [] if wide else ["no load of 16 bytes and no TMA"]
    if compiled.kernel in TILED_KERNELS and case.product and compiled.architecture >= 90:
        faults += [] if copies["tma"] and copies["tma_store"] else ["tiles do not travel by TMA"]
    if copies["cp.async 4"]:
        faults.append(f"{copies['cp.async 4']} copies of 4 bytes")
    return faults


def measure(architecture: int) -> Found:
    """The distinct kernels of all cases, each under the name of the first case that launches it."""
    everything = cases(architecture)
    compiled = compile_calls({name: case.call for name, case in everything.items()}, architecture)
    found: Found = {}
    seen: set[int] = set()
    for name, kernels in compiled.items():
        for kernel in kernels:
            if id(kernel) not in seen:
                seen.add(id(kernel))
                found[f"{name} | {kernel.kernel}"] = everything[name], kernel
    return found


def judge(
    architecture: int, budgets: dict[str, dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[str]]:
    """One row of figures for each kernel of an architecture, and everything that is wrong."""
    rows, faults = [], []
    for name, (case, kernel) in measure(architecture).items():
        figures = {"registers": kernel.registers, "shared": kernel.shared}
        wrong = gates(case, kernel) + over_budget(figures, budgets.get(name))
        faults += [f"sm_{architecture} {name}: {fault}" for fault in wrong]
        products = {word: count for word, count in kernel.products.items() if count}
        copies = {word: count for word, count in kernel.copies.items() if count}
        rows.append({"name": name, **figures, "warps": kernel.warps, **products, **copies})
    return rows, faults


def over_budget(figures: dict[str, int], budget: dict[str, Any] | None) -> list[str]:
    """Which figures exceed their budget, in words."""
    if budget is None:
        return ["no budget: run --tighten"]
    return [
        f"{figures[word]} {word}; the budget is {budget[word]}"
        for word in figures
        if figures[word] > budget[word]
    ]


def read_budgets() -> dict[str, Any]:
    """The committed budgets: {"triton": version, "budgets": {architecture: {kernel: figures}}}."""
    budgets: dict[str, Any] = json.loads(BUDGET_FILE.read_text())
    return budgets


def write_budgets(measured: dict[int, list[dict[str, Any]]], reason: str | None) -> None:
    """Lowers budgets to what was measured; raises them only with a reason, which is kept."""
    known = read_budgets()["budgets"] if BUDGET_FILE.exists() else {}
    for architecture, rows in measured.items():
        old, new = known.get(str(architecture), {}), {}
        for row in rows:
            figures = {word: row[word] for word in ("registers", "shared")}
            new[row["name"]] = _merged(figures, old.get(row["name"]), reason)
        known[str(architecture)] = new
    lines = []
    for architecture, kernels in known.items():
        entries = ",\n".join(
            f"   {json.dumps(name)}: {json.dumps(kernels[name])}" for name in kernels
        )
        lines.append(f'  "{architecture}": {{\n{entries}\n  }}')
    body = ",\n".join(lines)
    BUDGET_FILE.write_text(
        f'{{\n "triton": "{triton.__version__}",\n "budgets": {{\n{body}\n }}\n}}\n'
    )


def _merged(
    figures: dict[str, int], old: dict[str, Any] | None, reason: str | None
) -> dict[str, Any]:
    if old is None:
        return figures
    kept = {"reason": old["reason"]} if "reason" in old else {}
    if reason is not None and any(figures[word] > old[word] for word in figures):
        return {**figures, "reason": reason}
    return {word: min(figures[word], old[word]) for word in figures} | kept


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--archs", type=int, nargs="+", default=ARCHITECTURES, choices=ARCHITECTURES
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true")
    action.add_argument("--tighten", action="store_true")
    action.add_argument("--loosen", metavar="REASON")
    action.add_argument("--faults", action="store_true")
    options = parser.parse_args(arguments)
    if options.faults:
        from benchmarks.compile_faults import seed_all

        return seed_all()
    committed = read_budgets() if BUDGET_FILE.exists() else {"triton": None, "budgets": {}}
    same_compiler = committed["triton"] == triton.__version__
    budgets = [committed["budgets"].get(str(arch), {}) for arch in options.archs]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        judged = dict(zip(options.archs, pool.map(judge, options.archs, budgets), strict=True))
    if options.tighten or options.loosen:
        write_budgets({arch: rows for arch, (rows, _) in judged.items()}, options.loosen)
    faults = [fault for _, found in judged.values() for fault in found]
    if not same_compiler:
        print(
            f"budgets are for Triton {committed['triton']}, this is {triton.__version__}: gates only"
        )
        faults = [fault for fault in faults if "budget" not in fault]
    if not options.check:
        for arch, (rows, _) in judged.items():
            for row in rows:
                print(f"sm_{arch}", "  ".join(f"{word} {value}" for word, value in row.items()))
    counts = ", ".join(f"sm_{arch} {len(rows)}" for arch, (rows, _) in judged.items())
    print(f"kernels: {counts}; faults: {len(faults)}")
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if options.check and faults else 0


if __name__ == "__main__":
    sys.exit(main())
