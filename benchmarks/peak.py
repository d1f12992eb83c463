"""What the machine can do at best, measured in the same run as the contestants: matrix products and reading memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.peers import Peer, Prepared
from benchmarks.work import Work

# A tower's own shapes at batch 32 (M tokens, K, N features): large enough for the roof, small enough to be quick.
_M, _K, _N = 1600, 768, 3072
_READ_BYTES = 1 << 30


def compute_peak(precision: str, threads: int) -> tuple[Peer, Work]:
    """A contestant whose items are floating-point (int8: integer) operations."""
    return Peer("benchmarks.peak", {}), Work("images", precision, 1, threads)


def read_peak(threads: int) -> tuple[Peer, Work]:
    """A contestant whose items are bytes read from memory."""
    return Peer("benchmarks.peak", {}), Work("top_k", "fp32", 1, threads)


def requires(work: Work) -> tuple[str, ...]:
    return ("torch",)


def variants(work: Work) -> tuple[str, ...]:
    if work.task == "top_k":
        return ("read",)
    return ("matrix product", "packed weights") if work.precision == "bf16" else ("matrix product",)


def prepare(work: Work, variant: str) -> Prepared:
    torch.set_num_threads(work.threads)
    if variant == "read":
        memory = torch.ones(_READ_BYTES // 4, dtype=torch.float32)
        return Prepared(memory.sum, _READ_BYTES, list)
    multiply = _product(work.precision, packed=variant == "packed weights")
    return Prepared(multiply, 2 * _M * _K * _N, list)


def _product(precision: str, *, packed: bool) -> Callable[[], Any]:
    if precision == "int8":
        a = torch.randint(-128, 127, (_M, _K), dtype=torch.int8)
        b = torch.randint(-128, 127, (_K, _N), dtype=torch.int8)
        return lambda: torch._int_mm(a, b)  # noqa: SLF001  (torch has no public int8 product)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    x = torch.randn(_M, _K).to(dtype)
    weight = torch.randn(_N, _K).to(dtype)
    if packed:
        ready = torch.ops.mkldnn._reorder_linear_weight(weight, _M)  # noqa: SLF001
        return lambda: torch.ops.mkldnn._linear_pointwise(x, ready, None, "none", [], "")  # noqa: SLF001
    return lambda: torch.nn.functional.linear(x, weight)
