"""Kernels compiled without a GPU, and what their PTX, machine code and assembler log say.

The public functions of clipfast.kernels run on meta tensors (shapes and strides, no memory) while each launch is turned
into a compilation by Triton's own launcher, so what is inspected is what a GPU of that architecture would be given,
pointer alignment included.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.runtime import driver
from triton.runtime.jit import JITFunction

# Multiprocessors of a product of each architecture: A100, L40S, H100, B200, RTX PRO 6000.
MULTIPROCESSORS = {80: 108, 89: 142, 90: 132, 100: 148, 120: 188}
# Shared memory a program may use, bytes.
SHARED_LIMIT = {80: 166_912, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}


@dataclass(frozen=True)
class Compiled:
    """One kernel for one architecture."""

    kernel: str
    architecture: int
    ttgir: str
    ptx: str
    shared: int
    warps: int
    registers: int = 0
    stack: int = 0
    spills: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def products(self) -> dict[str, int]:
        """Matrix instructions by class."""
        patterns = {
            "wgmma": r"\bwgmma\.mma_async",
            "tcgen05": r"\btcgen05\.mma\b",
            "mma.sync": r"(?<!wg)\bmma\.sync",
        }
        return {name: len(re.findall(pattern, self.ptx)) for name, pattern in patterns.items()}

    @property
    def copies(self) -> dict[str, int]:
        """Ways from global memory, by kind and width."""
        patterns = {
            "tma": r"cp\.async\.bulk\.tensor\S*shared\S*global",
            "tma_store": r"cp\.async\.bulk\.tensor\S*global\S*shared",
            "cp.async 16": r"cp\.async\.\S+ \[[^]]*\], \[[^]]*\], (?:0x10|16)\b",
            "cp.async 8": r"cp\.async\.\S+ \[[^]]*\], \[[^]]*\], (?:0x8|8)\b",
            "cp.async 4": r"cp\.async\.\S+ \[[^]]*\], \[[^]]*\], (?:0x4|4)\b",
            "ld 16": r"ld\.global\S*\.v(?:4\.b32|2\.b64|8\.b16)",
        }
        return {name: len(re.findall(pattern, self.ptx)) for name, pattern in patterns.items()}


class CompileOnlyDriver:
    """What Triton asks of a driver before it compiles: a target, and names for a device and a stream."""

    def __init__(self, architecture: int) -> None:
        self.architecture = architecture

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.architecture, 32)

    def get_current_device(self) -> int:
        # Triton caches kernels by device: one device an architecture.
        return self.architecture

    def get_current_stream(self, _device: int) -> int:
        return 0


@contextmanager
def compilations(architecture: int) -> Iterator[list[Any]]:
    """Within it, launching a kernel compiles it and appends Triton's compiled kernel to the list."""
    found: list[Any] = []
    run = JITFunction.run

    def compile_only(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        found.append(run(self, *args, grid=grid, warmup=True, **kwargs))

    # It stays: without a GPU there is no driver to go back to, so a process that was here launches nothing.
    driver.set_active(CompileOnlyDriver(architecture))
    with mock.patch.object(JITFunction, "run", compile_only):
        yield found


def inspect(compiled: Any) -> Compiled:
    """What the assembler says about a kernel that Triton compiled."""
    return inspect_ptx(
        Compiled(
            kernel=compiled.name,
            architecture=compiled.metadata.target.arch,
            ttgir=compiled.asm["ttgir"],
            ptx=compiled.asm["ptx"],
            shared=compiled.metadata.shared,
            warps=compiled.metadata.num_warps,
        )
    )


def inspect_ptx(compiled: Compiled) -> Compiled:
    """The same kernel with what the assembler says about its PTX."""
    log = _assemble(compiled.ptx, compiled.architecture)
    used = re.search(r"Used (\d+) registers", log)
    frame = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes", log)
    if used is None or frame is None:
        raise ValueError(f"the assembler's log has another form:\n{log}")
    return replace(
        compiled,
        registers=int(used[1]),
        stack=int(frame[1]),
        spills=int(frame[2]) + int(frame[3]),
        warnings=tuple(line for line in log.splitlines() if re.search(r"warning|C75\d\d", line)),
    )


def _assemble(ptx: str, architecture: int) -> str:
    """The log of the assembler that Triton uses for this architecture, with the flags that Triton gives it."""
    suffix = "a" if architecture >= 90 else ""
    flags = ["-v", "--warn-on-spills", f"--gpu-name=sm_{architecture}{suffix}"]
    if tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 7):
        flags.append("--regAllocOptLevel=2")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        command = [
            get_ptxas(architecture).path,
            *flags,
            str(source),
            "-o",
            str(source.with_suffix(".cubin")),
        ]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def compile_calls(
    calls: dict[str, Callable[[], object]], architecture: int
) -> dict[str, list[Compiled]]:
    """For each named call of a public kernel function, the kernels that it launches."""
    result: dict[str, list[Compiled]] = {}
    inspected: dict[str, Compiled] = {}
    for name, call in calls.items():
        with compilations(architecture) as found:
            call()
        for compiled in found:
            if compiled.hash not in inspected:
                inspected[compiled.hash] = inspect(compiled)
        result[name] = [inspected[compiled.hash] for compiled in found]
    return result
