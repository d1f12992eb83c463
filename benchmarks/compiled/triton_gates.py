"""What may never happen in a compiled Triton kernel, in words.

The class of matrix instructions, 16-byte loads (TMA, cp.async), no spills, no stack, shared memory within the
architecture's limit, no warning of the assembler (serialised wgmma is one); accumulators that leave by TMA stay in
their layout until then; kernels that start under the one before wait for it before they touch global memory.
"""

from __future__ import annotations

import re
from math import prod

from benchmarks.compiled.triton_cases import Case
from benchmarks.compiled.triton_kernels import SHARED_LIMIT, Compiled

# Kernels of rows, without a product of matrices.
ROW_KERNELS = {"_layer_norm_kernel", "_attention_pool_kernel", "_softmax_kernel", "_sum_kernel"}
# Kernels whose tiles the tensor memory accelerator carries, where there is one.
TILED_KERNELS = {"_linear_kernel", "_linear_8bit_kernel"}
# Kernels that are launched while the one before still runs, where the architecture can.
DEPENDENT_KERNELS = TILED_KERNELS | {
    "_attention_kernel", "_layer_norm_kernel", "_partial_kernel", "_sum_kernel",
}  # fmt: skip
# Whatever reads or writes global memory, prefetches of it included; descriptors are parameters.
_GLOBAL = re.compile(r"\b(?:ld|st|red|atom|prefetch)\S*\.global\b|\bcp\.async\.\S*(?:global|bulk)")
# A tensor's shape in Triton's GPU dialect, and that of one whose elements move to other threads.
_FLOATS = re.compile(r"tensor<([\dx]+)xf32,")
_MOVED = re.compile(r"ttg\.convert_layout \S+ : tensor<([\dx]+)xf32,")
_WAIT, _BLOCK = "griddepcontrol.wait", re.compile(r"^\$L__BB\S*:")
_WARPGROUP = {80: "mma.sync", 89: "mma.sync", 90: "wgmma", 100: "tcgen05", 120: "mma.sync"}


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
    faults += _wrong_product(case, compiled) + _narrow_loads(case, compiled)
    return faults + _moved_accumulators(case, compiled) + _early_accesses(compiled)


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


def _moved_accumulators(case: Case, compiled: Compiled) -> list[str]:
    """Before 90 they move once, so that a thread stores 16 bytes; TMA takes them from where they are."""
    if compiled.kernel != "_linear_kernel" or not case.product or compiled.architecture < 90:
        return []
    accumulator = max(_FLOATS.findall(compiled.ttgir), key=_elements)
    moved = [
        shape
        for shape in _MOVED.findall(compiled.ttgir)
        if _elements(shape) == _elements(accumulator)
    ]
    return [f"the accumulator of {shape} floats changes its layout" for shape in moved]


def _elements(shape: str) -> int:
    return prod(map(int, shape.split("x")))


def _early_accesses(compiled: Compiled) -> list[str]:
    """The wait stands in the first block, before every access; a kernel of 8.x has none."""
    expected = compiled.kernel in DEPENDENT_KERNELS and compiled.architecture >= 90
    if not expected:
        return [f"{_WAIT} in a kernel that nothing starts early"] if _WAIT in compiled.ptx else []
    for line in compiled.ptx.splitlines():
        if _WAIT in line:
            return []
        if _GLOBAL.search(line):
            return [f"{line.strip()} before {_WAIT}"]
        if _BLOCK.match(line):
            break
    return [f"no {_WAIT} in the first block"]


def figures(compiled: Compiled) -> dict[str, int]:
    """What budgets hold of a kernel."""
    return {"registers": compiled.registers, "shared": compiled.shared}
