"""The activations that end a linear layer, on its fp32 accumulators.

    silu(y) = y sigmoid(y);  quick_gelu(y) = y sigmoid(1.702 y);  gelu(y) = y Phi(y);  relu(y) = max(y, 0)

No product, and nothing is loaded; other kernels call `activate`. An epilogue is bound by its instructions: 128 outputs
a thread, while the tensor cores wait. sigmoid is the square of a reciprocal root, because the compiler guards quotients
against overflow. Where exp2 overflows, y * 0 * 0 is right; NaN stays NaN.
Source: Hendrycks and Gimpel 2016, arXiv:1606.08415; QuickGELU: github.com/openai/CLIP, MIT, clip/model.py.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

ACTIVATIONS = (None, "gelu", "quick_gelu", "silu", "relu")


def compiled_activation(activation: str | None, operands: torch.dtype) -> str | None:
    """What `activate` is compiled with: GELU to the accuracy of fp32 operands, or of narrower ones."""
    return "gelu_16" if activation == "gelu" and operands.itemsize < 4 else activation


@triton.jit
def activate(y, ACTIVATION: tl.constexpr):
    if ACTIVATION == "silu":
        root = tl.rsqrt(1.0 + tl.exp2(y * -1.4426950408889634))  # log2(e)
        y = y * root * root
    elif ACTIVATION == "quick_gelu":
        root = tl.rsqrt(1.0 + tl.exp2(y * -2.4554669595930157))  # 1.702 log2(e)
        y = y * root * root
    elif ACTIVATION == "gelu":
        y = 0.5 * y * (1.0 + tl.erf(y * 0.7071067811865476))
    elif ACTIVATION == "gelu_16":
        # relu(y) - |y| Phi(-|y|), Phi(-x) = t P(t) exp(-x^2 / 2), t = 1 / (1 + 0.3 x): the form of Abramowitz and
        # Stegun 7.1.26, P fitted for relative error. Of the result it is 4e-6 for |y| < 8 and 3e-5 for |y| < 10 (their
        # P: 2e-3 at -5), where bf16 rounds by 4e-3 and fp16 by 5e-4; absolute 4e-7, as erf's in fp32, at a third of its
        # instructions.
        size = tl.abs(y)
        root = tl.rsqrt(1.0 + 0.3 * size)
        t = root * root
        p = 0.23310524 - 0.08264705 * t
        p = ((p * t - 0.03706581) * t + 0.15550434) * t + 0.1107227
        tail = (p * t + 0.12037981) * t * size * tl.exp2(y * y * -0.7213475204444817)  # log2(e) / 2
        y = tl.maximum(y, 0.0) - tail
    elif ACTIVATION == "relu":
        y = tl.maximum(y, 0.0)
    return y
