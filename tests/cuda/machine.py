"""Where the operations of csrc/cuda run: on the GPU through the adapter, else here on the checking machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

from clipfast.backends.cuda import unsupported_reason
from clipfast.backends.cuda_kernels import CudaKernels
from clipfast.backends.reference import REFERENCE
from tests.cuda.host_attention import attention, attention_pool
from tests.cuda.host_cosine import similarity, top_k
from tests.cuda.host_patch_embed import patch_embed
from tests.cuda.host_resize import resize_crop


@dataclass(frozen=True)
class Machine:
    """The operations of `clipfast.ops` that csrc/cuda serves, on tensors of `device`."""

    device: torch.device
    patch_embed: Callable[..., torch.Tensor]
    attention: Callable[..., torch.Tensor]
    attention_pool: Callable[..., torch.Tensor]
    similarity: Callable[..., torch.Tensor]
    top_k: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    resize_crop: Callable[..., torch.Tensor]


def missing_device() -> str | None:
    """None when the kernels run on a GPU here, else the sentence why not."""
    return unsupported_reason(torch.device("cuda"), torch.bfloat16)


@cache
def machine() -> Machine:
    """The GPU where its kernels run, else the checking machine."""
    if missing_device() is not None:
        return Machine(
            torch.device("cpu"),
            patch_embed=patch_embed,
            attention=attention,
            attention_pool=attention_pool,
            similarity=similarity,
            top_k=lambda queries, gallery, k: top_k(queries, gallery, k)[:2],
            resize_crop=resize_crop,
        )
    kernels = CudaKernels(REFERENCE)
    return Machine(
        torch.device("cuda", torch.cuda.current_device()),
        patch_embed=kernels.patch_embed,
        attention=kernels.attention,
        attention_pool=kernels.attention_pool,
        similarity=kernels.similarity,
        top_k=kernels.top_k,
        resize_crop=kernels.resize_crop,
    )
