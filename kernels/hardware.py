"""What the kernels know of a device: its architecture, the family whose tiles serve it, how many programs it runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch


@dataclass(frozen=True)
class Hardware:
    """architecture: compute capability x 10 (80, 86, 89, 90, 100, 120). multiprocessors: that run programs at once."""

    architecture: int
    multiprocessors: int

    @property
    def family(self) -> int:
        """The architecture whose tiles serve this one."""
        return FAMILY_FROM[max(first for first in FAMILY_FROM if first <= self.architecture)]

    @property
    def has_descriptors(self) -> bool:
        """Whether tiles travel through the tensor memory accelerator (TMA)."""
        return self.architecture >= 90


# The first architecture of a family -> the family. 86 and 87 have the shared memory of 89.
FAMILY_FROM = {80: 80, 86: 89, 90: 90, 100: 100, 120: 120}
FAMILIES = (80, 89, 90, 100, 120)
# What stands in for a GPU where tensors live on the CPU, which is Triton's interpreter: few programs, so that each has
# several tiles and the persistent loop is exercised.
INTERPRETER = Hardware(80, 3)


@cache
def hardware_of(device: torch.device) -> Hardware:
    """The hardware that runs kernels on tensors of this device."""
    if device.type != "cuda":
        return INTERPRETER
    properties = torch.cuda.get_device_properties(device)
    return Hardware(properties.major * 10 + properties.minor, properties.multi_processor_count)
