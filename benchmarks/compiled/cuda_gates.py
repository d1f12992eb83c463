"""What may never happen in a compiled CUDA kernel, in words.

No spills, no stack, no local memory, tensor-core instructions where there are products and nowhere else, only the
declared widths of global memory, and as many blocks a multiprocessor as each launch is designed for. From sm_90 on a
kernel waits for the one before it first of all, and only weights are loaded as constants, which may pass that wait. (A
warning of nvcc or ptxas is an error already.)
"""

from __future__ import annotations

from benchmarks.compiled.budgets import Figures
from benchmarks.compiled.cuda_design import Launch, blocks_a_multiprocessor, family, launches
from benchmarks.compiled.cuda_kernels import BRANCHES, Change, Kernel, access_of

# griddepcontrol.wait and griddepcontrol.launch_dependents, as machine instructions.
WAIT, LET_BEGIN = "ACQBULK", "PREEXIT"


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
    faults += [
        f"loads of constants '{width}'; declared {design.constants or 'none'}"
        for width in sorted(kernel.constants - set(design.constants))
    ]
    return faults + _early_accesses(kernel) + _too_few_blocks(kernel, changes)


def _early_accesses(kernel: Kernel) -> list[str]:
    """The wait stands in the first stretch of code, before every access; a kernel of 8.x has none."""
    if int(kernel.architecture.rstrip("a")) < 90 or not kernel.accesses:
        return [f"{WAIT} in a kernel that nothing starts early"] if WAIT in kernel.code else []
    for at, word in enumerate(kernel.code):
        if word == WAIT:
            return [] if LET_BEGIN in kernel.code[at:] else [f"no {LET_BEGIN} after {WAIT}"]
        if access_of(word) is not None:
            return [f"{word} before {WAIT}"]
        if word.partition(".")[0] in BRANCHES:
            break
    return [f"no {WAIT} before the first branch"]


def _too_few_blocks(kernel: Kernel, changes: tuple[Change, ...]) -> list[str]:
    return [
        f"{blocks} blocks a multiprocessor at {launch.what}; designed for {launch.blocks}"
        for launch in launches_of(kernel, changes)
        if (blocks := blocks_a_multiprocessor(kernel, launch)) < launch.blocks
    ]


def launches_of(kernel: Kernel, changes: tuple[Change, ...] = ()) -> list[Launch]:
    name = kernel.name.replace("Bfloat16", "T").replace("Float16", "T")
    return launches(int(kernel.architecture.rstrip("a")), changes).get(name, [])


def figures(kernel: Kernel) -> Figures:
    """What budgets hold of a kernel."""
    narrow = sum(n for width, n in kernel.accesses.items() if not width.endswith(" 16"))
    shared = max((launch.shared for launch in launches_of(kernel)), default=0) + kernel.shared
    return {
        "registers": kernel.registers,
        "shared": shared,
        "narrow": narrow,
        "parts": kernel.parts,
    }
