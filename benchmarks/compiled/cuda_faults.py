"""A seeded fault for every gate of the CUDA report: each must be seen, or the gate proves nothing.

The patch embedding is the smallest source with a product, a ring of copies and an epilogue, so that is where they are.
"""

from __future__ import annotations

from benchmarks.compiled.budgets import over_budget
from benchmarks.compiled.cuda_gates import figures, gates
from benchmarks.compiled.cuda_kernels import Change, CompileError, Kernel, compile_kernels
from benchmarks.compiled.faults import Fault

SOURCE = "patch_embed"
LENIENT = ("-Xptxas=-v",)


def _kernel(architecture: str, *changes: Change, name: str = "Bfloat16, 16>") -> Kernel:
    kernels = compile_kernels(SOURCE, architecture, changes, LENIENT)
    return next(kernel for kernel in kernels if kernel.name.endswith(name))


def _gated(architecture: str, change: Change, name: str = "Bfloat16, 16>") -> list[str]:
    return gates(_kernel(architecture, change, name=name), (change,))


def _refused(architecture: str, *changes: Change) -> list[str]:
    """What the compiler says with warnings as errors."""
    try:
        compile_kernels(SOURCE, architecture, changes)
    except CompileError as error:
        return str(error).splitlines()
    return []


def _in_body(statement: str) -> Change:
    return "cuda/patch_embed.cu", "    Gpu m;\n", f"    {statement}\n    Gpu m;\n"


def _over_budget(*changes: Change, registers: int = 0) -> list[str]:
    """A changed kernel against the budget of the unchanged one, or of one with more registers."""
    budget = figures(_kernel("90a"))
    assert over_budget(budget, budget) == []
    return over_budget(
        figures(_kernel("90a", *changes)), {**budget, "registers": budget["registers"] + registers}
    )


BLOCKS = (
    "cuda/patch_embed_params.h",
    "kPatchBlocksPerMultiprocessor = 2",
    "kPatchBlocksPerMultiprocessor = 4",
)
DYNAMIC_INDEX = (
    "cuda/patch_embed_loop.h",
    "chunk.word[j] = m.template pack",
    "chunk.word[(j + p_.images) % 4] = m.template pack",
)
PRODUCT = 'asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "'
SUM = "d[0] += __uint_as_float(a0 ^ a1 ^ a2 ^ a3 ^ b0 ^ b1); return;"
NO_PRODUCT = ("cuda/gpu_machine.h", PRODUCT, f"{SUM} {PRODUCT}")
NARROW = ("cuda/patch_embed_loop.h", "kPatch == 14 ? 8 : 16", "8")
WAIT = "griddepcontrol.wait; "
NO_WAIT = ("cuda/gpu_machine.h", WAIT, "")
NO_START = ("cuda/gpu_machine.h", " griddepcontrol.launch_dependents;", "")
PIXELS = (
    "cuda/gpu_machine.h",
    "const uint4 v = *reinterpret_cast<const uint4*>(address);",
    "const uint4 v = __ldg(reinterpret_cast<const uint4*>(address));",
)
PARTED = (
    "cuda/product_loop.h",
    "m.template multiply_16<T>(",
    "if (m.thread_anew() + j < kProductThreads) m.sync_warp(); m.template multiply_16<T>(",
)
STAGES = ("cuda/product_loop.h", "constexpr int kStages = 4;", "constexpr int kStages = 8;")
BOUND = "__launch_bounds__(kProductThreads, kPatchBlocksPerMultiprocessor)"
NO_BOUND = ("cuda/patch_embed.cu", BOUND, "__launch_bounds__(kProductThreads, 1)")
UNBOUND = ("cuda/patch_embed.cu", BOUND, "")
SETMAXNREG = 'asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");'
WGMMA = (
    'asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0,%1,%2,%3}, %4, %4, 1, 1, 1, 0, 0;"'
    ' : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(p.image_stride));'
)
SERIAL = f"""float d[4] = {{}};
    asm volatile("wgmma.fence.sync.aligned;");
    {WGMMA} d[0] += 1.0f; {WGMMA}
    asm volatile("wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;");
    for (int i = 0; i < 4; ++i) p.out[threadIdx.x * 4 + i] = static_cast<uint16_t>(d[i]);"""

FAULTS = {
    "registers for four blocks": Fault(lambda: _gated("90a", BLOCKS), "bytes spilled"),
    "registers for four blocks, warnings as errors": Fault(
        lambda: _refused("90a", BLOCKS), "Registers are spilled"
    ),
    "a register chosen at run time": Fault(
        lambda: _gated("80", DYNAMIC_INDEX), "accesses of local memory"
    ),
    "a product on CUDA cores": Fault(
        lambda: _gated("90a", NO_PRODUCT), "0 tensor-core instructions; expected some"
    ),
    "weights in copies of 8 bytes": Fault(
        lambda: _gated("90a", NARROW), "accesses 'copy 8'; not declared"
    ),
    "eight stages": Fault(lambda: _gated("89", STAGES), "designed for 2"),
    "no bound on registers": Fault(
        lambda: _gated("90a", NO_BOUND, "Bfloat16, 14>"), "designed for 2"
    ),
    "a variable that nothing uses": Fault(
        lambda: _refused("90a", _in_body("int unused;")), "unused"
    ),
    "setmaxnreg without a known count": Fault(
        lambda: _refused("90a", _in_body(SETMAXNREG), UNBOUND), "C7508"
    ),
    "an accumulator touched between two wgmma": Fault(
        lambda: _refused("90a", _in_body(SERIAL)), "wgmma.mma_async instructions are serialized"
    ),
    "no wait for the kernel before": Fault(lambda: _gated("90a", NO_WAIT), "before ACQBULK"),
    "a store before that wait": Fault(
        lambda: _gated("90a", _in_body("p.out[0] = 0;")), "before ACQBULK"
    ),
    "a kernel after that is not let begin": Fault(lambda: _gated("90a", NO_START), "no PREEXIT"),
    "pixels that are loaded before that wait": Fault(
        lambda: _gated("90a", PIXELS), "loads of constants 'load 16'"
    ),
    "a branch between products": Fault(lambda: _over_budget(PARTED), "parts; the budget is"),
    "one register over the budget": Fault(
        lambda: _over_budget(registers=-1), "registers; the budget is"
    ),
}
