"""The Triton kernels of clipfast.kernels behind the contract of operations; convolutions are borrowed from torch.

They run on NVIDIA GPUs from compute capability 8.0 on, and on the CPU where Triton's interpreter runs them
(TRITON_INTERPRET=1 before the kernels are imported): slow and exact, for tests without a GPU.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import torch

from clipfast.backends.reference import REFERENCE, with_row_options
from clipfast.errors import UnsupportedError
from clipfast.ops import LinearActivation, Ops, PrefixTree, Stream, StreamProducts, Tensor

_NOT_INSTALLED = "triton is not installed; pip install clipfast[gpu] brings it"


def unsupported_reason(device: torch.device, dtype: torch.dtype) -> str | None:
    """None when the kernels can serve tensors of this device and dtype, else the sentence why not."""
    if importlib.util.find_spec("triton") is None:
        return _NOT_INSTALLED
    from clipfast.kernels.hardware import hardware_of
    from clipfast.kernels.operands import unsupported_dtype

    if device.type == "cpu" and not _interpreted():
        return (
            "its kernels run on GPUs; on the CPU only in Triton's interpreter (TRITON_INTERPRET=1)"
        )
    if device.type not in ("cpu", "cuda"):
        return f"its kernels run on CUDA devices, not on {device.type}"
    return unsupported_dtype(dtype, hardware_of(device).architecture)


def _interpreted() -> bool:
    """Whether the kernels were imported for Triton's interpreter, which is decided once a process."""
    from triton.runtime.interpreter import InterpretedFunction

    from clipfast.kernels.activations import activate

    return isinstance(activate, InterpretedFunction)


def make_ops() -> Ops:
    """The operations, all but the convolution in Triton.

    Raises:
        UnsupportedError: triton is not installed.
    """
    if importlib.util.find_spec("triton") is None:
        raise UnsupportedError(_NOT_INSTALLED)
    from clipfast.kernels.attention_pool import attention_pool
    from clipfast.kernels.similarity import log_sum_exp, similarity
    from clipfast.kernels.top_k import top_k

    return replace(
        REFERENCE,
        name="triton",
        patch_embed=_patch_embed,
        layer_norm=_layer_norm,
        linear=with_row_options(_linear),
        attention=_attention,
        tree_attention=_tree_attention,
        attention_pool=attention_pool,
        similarity=similarity,
        top_k=top_k,
        log_sum_exp=log_sum_exp,
        unsupported_reason=_operation_unsupported,
        stream=StreamProducts(_add_to_stream, _read_stream),
        packed_waits=False,
        sources={"convolution": "reference (torch)"},
    )


def _operation_unsupported(name: str, *, device: torch.device, dtype: torch.dtype) -> str | None:
    return None if name == "convolution" else unsupported_reason(device, dtype)


def _patch_embed(
    pixels: Tensor, weight: Tensor, bias: Tensor | None, class_row: Tensor, positions: Tensor
) -> Tensor:
    from clipfast.kernels.patch_embed import patch_embed

    # Channels-last pixels, as decoders leave them, have no contiguous lines.
    lines = pixels if pixels.stride(-1) == 1 else pixels.contiguous()
    return patch_embed(lines, weight, bias, class_row, positions)


def _layer_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    from clipfast.kernels.layer_norm import layer_norm

    y, r, _ = layer_norm(x, weight, bias, eps, residual, dtype=dtype)
    return y if r is None else (y, r)


def _linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    activation: LinearActivation | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    from clipfast.kernels.linear import linear

    return linear(x, weight, bias, activation=activation, residual=residual)[0]


def _add_to_stream(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> Stream:
    from clipfast.kernels.linear import linear

    copy = None
    if residual.dtype != weight.dtype:
        copy = torch.empty(residual.shape, dtype=weight.dtype, device=x.device)
    y, sums = linear(x, weight, bias, residual=residual, copy=copy, return_sums=True)
    assert sums is not None, "they were asked for"
    return Stream(y, y if copy is None else copy, sums)


def _read_stream(
    stream: Stream,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    *,
    activation: LinearActivation | None = None,
) -> Tensor:
    from clipfast.kernels.linear import linear

    x, sums = stream.narrow, stream.sums
    return linear(x, weight, bias, activation=activation, row_sums=sums, eps=eps)[0]


def _attention(
    qkv: Tensor,
    heads: int,
    *,
    cu_seqlens: Tensor | None = None,
    length: int | None = None,
    causal: bool = False,
) -> Tensor:
    from clipfast.kernels.attention import attention

    return attention(qkv, heads, cu_seqlens=cu_seqlens, length=length, causal=causal)


def _tree_attention(qkv: Tensor, heads: int, tree: PrefixTree) -> Tensor:
    from clipfast.kernels.attention import tree_attention

    return tree_attention(qkv, heads, tree.cu_queries, tree.cu_keys, tree.key_rows)
