"""Programmatic dependent launch: a kernel's launch and first instructions run under the end of the kernel before it.

    wait_for_previous(PDL)      # first in a kernel: nothing in global memory is read or written before it

A kernel launched with `dependent_launch` starts once every program of the kernel before has called this or ended, and
waits here until that one is complete and its writes are seen. Each of them waits, so whatever came earlier is complete
too. A kernel that is launched in the ordinary way waits for everything, and may stand anywhere between them.
From compute capability 9.0 on; else, and in the interpreter, nothing happens.
Source: CUDA C++ Programming Guide, "Programmatic Dependent Launch"; PTX ISA, griddepcontrol.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from clipfast.kernels.hardware import Hardware


@triton.jit
def wait_for_previous(PDL: tl.constexpr):
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


def dependent_launch(hardware: Hardware, device: torch.device) -> dict[str, bool]:
    """The options of such a launch: the kernel's constant PDL, and the launcher's own.

    Args:
        device: where the tensors are; on the CPU the interpreter runs the kernel, with any hardware's tiles.
    """
    if hardware.architecture < 90 or device.type == "cpu":
        return {"PDL": False}
    return {"PDL": True, "launch_pdl": True}
