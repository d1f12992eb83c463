"""A native module with CUDA kernels, where there is no GPU: what it says, and whether each binding takes what the
adapter gives it. Prints one JSON object; run by test_module.py with the module's folder first on the path."""

from __future__ import annotations

import json
from functools import partial
from unittest import mock

import torch

from clipfast import _native
from clipfast.backends import cuda_kernels, cuda_operands
from clipfast.backends.cuda import unsupported_reason
from clipfast.backends.reference import REFERENCE

BF16, CPU = torch.bfloat16, torch.device("cpu")


def calls() -> dict[str, object]:
    """Every operation on small tensors that lie where no kernel can reach them."""
    kernels = cuda_kernels.CudaKernels(REFERENCE)
    rows, keys = torch.zeros(50, 192, dtype=BF16), torch.zeros(50, 128, dtype=BF16)
    offsets, listed = torch.tensor([0, 50]).int(), torch.zeros(50).int()
    pixels, places = torch.zeros(1, 3, 64, 64).byte(), torch.zeros(4, 64, dtype=BF16)
    row, weight = torch.zeros(64), torch.zeros(64, 3072, dtype=BF16)
    one, gallery = torch.zeros(1, 64, dtype=BF16), torch.zeros(9, 64, dtype=torch.int8)
    return {
        "attention": partial(kernels.attention, rows, 1, length=50),
        "attention, packed": partial(kernels.attention, rows, 1, cu_seqlens=offsets, causal=True),
        "attention_pool": partial(kernels.attention_pool, one, keys, 1, length=50),
        "attention_pool, listed": partial(
            kernels.attention_pool, one, keys, 1, cu_seqlens=offsets, key_rows=listed
        ),
        "patch_embed": partial(kernels.patch_embed, pixels, weight, None, row, places),
        "similarity": partial(kernels.similarity, one, gallery, 100.0),
        "top_k": partial(kernels.top_k, one, gallery, 3),
        "resize_crop": partial(kernels.resize_crop, [torch.zeros(9, 8, 3).byte()], 4),
    }


def refusals() -> dict[str, str]:
    """What CUDA says to each operation's launch; a binding of another signature would be a TypeError."""
    said = {}
    pageable = torch.empty  # memory is pinned by a driver
    with (
        mock.patch.object(cuda_kernels, "check_device", return_value=CPU),
        mock.patch.object(cuda_operands, "check_device", return_value=CPU),
        mock.patch.object(cuda_kernels, "_stream", return_value=(0, 0)),
        mock.patch.object(cuda_kernels, "_multiprocessors", return_value=132),
        mock.patch.object(torch, "empty", lambda *a, pin_memory=False, **k: pageable(*a, **k)),
    ):
        for name, call in calls().items():
            try:
                call()
            except RuntimeError as error:
                said[name] = str(error)
            else:
                said[name] = "launched"
    return said


if __name__ == "__main__":
    print(
        json.dumps(
            {
                "file": _native.__file__,
                "architectures": _native.cuda_architectures,
                "device": _native.cuda_device_reason(0),
                "reason": unsupported_reason(torch.device("cuda"), BF16),
                "refusals": {} if torch.cuda.is_available() else refusals(),
            }
        )
    )
