"""A seeded fault for every gate of the compile report: each must be seen, or the gate proves nothing."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import torch

from benchmarks.compiled.budgets import over_budget
from benchmarks.compiled.faults import Fault
from benchmarks.compiled.triton_cases import Case, cases, meta
from benchmarks.compiled.triton_gates import gates
from benchmarks.compiled.triton_kernels import Compiled, compile_calls, inspect_ptx
from clipfast.kernels import configs
from clipfast.kernels.configs import Tile
from clipfast.kernels.hardware import Hardware
from clipfast.kernels.linear import linear
from clipfast.kernels.linear_8bit import linear_8bit

LAYER = "linear ViT-L-14 c_fc 65792x4096x1024 silu bfloat16"
HARDWARE = {80: Hardware(80, 108), 90: Hardware(90, 132)}


def _judged(case: Case, architecture: int) -> list[str]:
    (compiled,) = compile_calls({"fault": case.call}, architecture)["fault"]
    return gates(case, compiled)


def _with_tile(architecture: int, tile: Tile) -> list[str]:
    """The layer on another tile than the table's."""
    with mock.patch.dict(configs.LINEAR, {(16, architecture): (tile,)}):
        return _judged(cases(architecture)[LAYER], architecture)


def _layer(architecture: int) -> Compiled:
    return compile_calls({LAYER: cases(architecture)[LAYER].call}, architecture)[LAYER][0]


def _without_waits() -> list[str]:
    """Accumulators read before wgmma has finished: the assembler injects a wait, one of its C75xx notes."""
    sound = _layer(90)
    lines = sound.ptx.splitlines()
    broken = "\n".join(line for line in lines if "wgmma.wait_group" not in line)
    return gates(cases(90)[LAYER], inspect_ptx(replace(sound, ptx=broken)))


def _moved_accumulator() -> list[str]:
    """An accumulator that is drawn into the layout of something that it meets."""
    sound = _layer(90)
    moved = (
        "%1 = ttg.convert_layout %0 : tensor<128x256xf32, #mma> -> tensor<128x256xf32, #blocked>"
    )
    return gates(cases(90)[LAYER], replace(sound, ttgir=f"{sound.ttgir}\n{moved}\n"))


def _without_dependency() -> list[str]:
    """A kernel that starts under the one before and does not wait for it."""
    sound = _layer(90)
    lines = sound.ptx.splitlines()
    broken = "\n".join(line for line in lines if "griddepcontrol.wait" not in line)
    return gates(cases(90)[LAYER], inspect_ptx(replace(sound, ptx=broken)))


def _late_dependency() -> list[str]:
    """The same, with a load before its wait."""
    sound = _layer(90)
    early = "ld.global.b32 %r1, [%rd1];\n"
    broken = sound.ptx.replace("griddepcontrol.wait", early + "griddepcontrol.wait", 1)
    return gates(cases(90)[LAYER], replace(sound, ptx=broken))


def _misaligned(architecture: int, dtype: torch.dtype = torch.bfloat16) -> list[str]:
    """Rows of 1023 elements, which no 16-byte load can carry."""
    x, weight = meta(4096, 1023, dtype=dtype), meta(1024, 1023, dtype=dtype)
    hardware = HARDWARE[architecture]
    return _judged(
        Case(lambda: linear(x, weight, None, hardware=hardware), "warpgroup"), architecture
    )


def _misaligned_fp8() -> list[str]:
    fp8, fp32 = torch.float8_e4m3fn, torch.float32
    x, weight = meta(4096, 1028, dtype=fp8), meta(1024, 1028, dtype=fp8)
    scales = meta(4096, 1, dtype=fp32), meta(1024, dtype=fp32)
    return _judged(
        Case(
            lambda: linear_8bit(x, scales[0], weight, scales[1], None, hardware=HARDWARE[90]),
            "warpgroup",
        ),
        90,
    )


def _on_cuda_cores() -> list[str]:
    x, weight = meta(4096, 1024, dtype=torch.float32), meta(1024, 1024, dtype=torch.float32)
    return _judged(Case(lambda: linear(x, weight, None, hardware=HARDWARE[80]), "warpgroup"), 80)


def _over_budget() -> list[str]:
    compiled = _layer(90)
    figures = {"registers": compiled.registers, "shared": compiled.shared}
    assert over_budget(figures, figures) == []
    return over_budget(figures, {**figures, "registers": compiled.registers - 1})


FAULTS = {
    "one warp holds the tile of eight": Fault(
        lambda: _with_tile(80, Tile(128, 128, 64, 1, 3, 128)), "bytes spilled"
    ),
    "nine stages": Fault(
        lambda: _with_tile(90, Tile(128, 256, 64, 8, 9, 64)), "bytes of shared memory; the limit"
    ),
    "two warps, too few for wgmma": Fault(
        lambda: _with_tile(90, Tile(64, 64, 64, 2, 3, 64)), "expected wgmma"
    ),
    "a product on CUDA cores": Fault(_on_cuda_cores, "matrix instructions none; expected mma.sync"),
    "rows without alignment, 80": Fault(lambda: _misaligned(80), "no load of 16 bytes"),
    "fp32 rows without alignment, 80": Fault(
        lambda: _misaligned(80, torch.float32), "copies of 4 bytes"
    ),
    "rows without alignment, 90": Fault(lambda: _misaligned(90), "tiles do not travel by TMA"),
    "fp8 rows without alignment, 90": Fault(_misaligned_fp8, "tiles do not travel by TMA"),
    "wgmma without its waits": Fault(_without_waits, "C7517"),
    "an accumulator in another layout": Fault(_moved_accumulator, "changes its layout"),
    "no wait for the kernel before": Fault(_without_dependency, "griddepcontrol.wait"),
    "a load before that wait": Fault(_late_dependency, "before griddepcontrol.wait"),
    "one register over the budget": Fault(_over_budget, "registers; the budget is"),
}
