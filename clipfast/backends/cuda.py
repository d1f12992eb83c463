"""The CUDA C++ kernels of csrc/cuda behind the contract of operations; what they lack is borrowed.

They serve float16 and bfloat16 on compute capability 8.0 and newer, for the architectures that the native module was
built for. Layer norms, linears, convolutions, tree attention and log-sum-exp come from the Triton backend where it
runs, else from the reference; so do shapes that no kernel is compiled for, as `sources` says.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import torch

from clipfast.backends import reference, triton
from clipfast.backends.cuda_kernels import OWN_OPERATIONS, CudaKernels
from clipfast.backends.cuda_operands import HALVES, name_of
from clipfast.errors import UnsupportedError
from clipfast.ops import OPERATIONS, Ops


def unsupported_reason(device: torch.device, dtype: torch.dtype) -> str | None:
    """None when the CUDA kernels can serve tensors of this device and dtype, else the sentence why not."""
    if device.type != "cuda":
        return f"its kernels run on CUDA devices, not on {device.type}"
    if dtype not in HALVES:
        return f"its kernels multiply in float16 and bfloat16, not in {name_of(dtype)}"
    reason = _build_reason()
    if reason is not None:
        return reason
    from clipfast import _native

    if not torch.cuda.is_available():
        return _native.cuda_device_reason(0) or "this PyTorch was built without CUDA"
    index = torch.cuda.current_device() if device.index is None else device.index
    return _native.cuda_device_reason(index) or None


def _build_reason() -> str | None:
    if importlib.util.find_spec("clipfast._native") is None:
        return "clipfast was built without the C++ extension"
    from clipfast import _native

    if not _native.cuda_architectures:
        return "clipfast was built without CUDA kernels; build it with CLIPFAST_CUDA_ARCHS, such as 90a"
    return None


def make_ops() -> Ops:
    """The operations, the five of OWN_OPERATIONS and `resize_crop` in CUDA C++.

    Raises:
        UnsupportedError: the native module was built without CUDA.
    """
    reason = _build_reason()
    if reason is not None:
        raise UnsupportedError(reason)
    return ops_over(_base())


def ops_over(base: Ops) -> Ops:
    """The CUDA kernels, with everything that they lack from `base`."""
    kernels = CudaKernels(base)
    own = {name: f"cuda ({shapes}; else {base.name})" for name, shapes in OWN_OPERATIONS.items()}
    borrowed = {name: base.sources.get(name, base.name) for name in OPERATIONS if name not in own}
    return replace(
        base,
        name="cuda",
        patch_embed=kernels.patch_embed,
        attention=kernels.attention,
        attention_pool=kernels.attention_pool,
        similarity=kernels.similarity,
        top_k=kernels.top_k,
        resize_crop=kernels.resize_crop,
        unsupported_reason=_operation_reason,
        sources=own | borrowed,
    )


def _base() -> Ops:
    cuda = torch.device("cuda", torch.cuda.current_device())
    if triton.unsupported_reason(cuda, torch.bfloat16) is None:
        return triton.make_ops()
    return reference.REFERENCE


def _operation_reason(name: str, *, device: torch.device, dtype: torch.dtype) -> str | None:
    return unsupported_reason(device, dtype) if name in OWN_OPERATIONS else None
