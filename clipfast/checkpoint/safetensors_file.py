"""Reads .safetensors files through the safetensors library, which checks the header and maps the bytes."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from clipfast.errors import CheckpointError


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Named tensors of a safetensors file, as memory-mapped views.

    Raises: CheckpointError when the header is too long, does not fit the file, or describes tensors that overlap,
        leave holes, or reach past the end.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: a safetensors file that is truncated or broken ({str(error)[:300]})"
        ) from None
