"""The C++ kernels of csrc/cpu behind the contract of operations; everything they lack is borrowed from the reference.

The instruction set is chosen once, when the operations are made: the widest that the processor has, or CLIPFAST_ISA.
torch is imported before the native module, so that torch's OpenMP runtime serves both.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass, replace

import torch

from clipfast import environment
from clipfast.backends import cpu_linear, cpu_panels, cpu_quantised
from clipfast.backends.cpu_convolution import convolution
from clipfast.backends.cpu_operands import DTYPES, check_matrix, matrix, threads
from clipfast.backends.cpu_tape import Repeated
from clipfast.backends.cpu_towers import TowerKernels
from clipfast.backends.reference import REFERENCE, with_row_options
from clipfast.errors import ConfigurationError, InputError, UnsupportedError
from clipfast.ops import OPERATIONS, Ops, Tensor, convolution_as_it_is

# What runs in C++, or in oneDNN with what it cannot fuse in C++.
OWN_OPERATIONS = (
    "patch_embed",
    "layer_norm",
    "linear",
    "attention",
    "tree_attention",
    "attention_pool",
    "convolution",
    "similarity",
    "top_k",
)


def unsupported_reason(device: torch.device, dtype: torch.dtype) -> str | None:
    """None when the C++ kernels can serve tensors of this device and dtype, else the sentence why not.

    Raises:
        ConfigurationError: CLIPFAST_ISA is not an instruction set.
    """
    if device.type != "cpu":
        return f"its kernels read host memory, not {device.type}"
    if dtype not in DTYPES:
        names = ", ".join(DTYPES.values())
        return f"its kernels read {names}, not {str(dtype).removeprefix('torch.')}"
    if importlib.util.find_spec("clipfast._native") is None:
        return "clipfast was built without the C++ extension"
    return _isa_reason(environment.isa())


def _isa_reason(asked: str) -> str | None:
    from clipfast import _native

    available = _native.supported_isas()
    if asked == "auto":
        return (
            None
            if len(available) > 1
            else "this processor lacks AVX2, and torch is faster than serial C++"
        )
    if asked in available:
        return None
    return f"CLIPFAST_ISA={asked}, but this processor has {', '.join(available)}"


def isa() -> str:
    """The instruction set that `make_ops` takes: CLIPFAST_ISA, or the widest that the processor has.

    Raises:
        UnsupportedError: the processor lacks the instruction set that CLIPFAST_ISA names.
    """
    from clipfast import _native

    asked = environment.isa()
    reason = _isa_reason(asked)
    if reason is not None:
        raise UnsupportedError(reason)
    return _native.supported_isas()[-1] if asked == "auto" else asked


def cpu_features() -> dict[str, bool]:
    """Instruction set extension -> whether this processor and its operating system offer it."""
    from clipfast import _native

    return _native.cpu_features()


def make_ops() -> Ops:
    """The operations, in C++ for the instruction set of `isa()` but for what is borrowed."""
    chosen = isa()
    cosines, towers = CosineKernels(chosen), TowerKernels(chosen)
    products = cpu_panels if cpu_panels.are_fastest(chosen) else None
    quantise = cpu_quantised.quantise if cpu_quantised.multiplies_bytes() else None
    return replace(
        REFERENCE,
        name="cpu",
        patch_embed=towers.patch_embed,
        layer_norm=towers.layer_norm,
        linear=with_row_options(towers.linear),
        attention=towers.attention,
        tree_attention=towers.tree_attention,
        attention_pool=towers.attention_pool,
        convolution=convolution,
        similarity=cosines.similarity,
        top_k=cosines.top_k,
        unsupported_reason=_operation_reason,
        prepare=products.prepare if products else cpu_linear.prepare,
        prepare_convolution=products.prepare_convolution if products else convolution_as_it_is,
        quantise=products.quantise if products else quantise,
        adds_in_norm=products is None,
        repeated=Repeated if products else None,
        batches_at_once=2 if products else 1,
        sources={
            name: _source(name, chosen, own_products=products is not None) for name in OPERATIONS
        },
    )


def _source(name: str, chosen: str, *, own_products: bool) -> str:
    if name not in OWN_OPERATIONS:
        return "reference (torch)"
    if name == "convolution" and own_products:
        return f"cpu ({chosen}, small ones oneDNN)"
    by_onednn = name in ("linear", "convolution") and not own_products
    return f"cpu (oneDNN, {chosen})" if by_onednn else f"cpu ({chosen})"


def _operation_reason(name: str, *, device: torch.device, dtype: torch.dtype) -> str | None:
    return unsupported_reason(device, dtype) if name in OWN_OPERATIONS else None


@dataclass(frozen=True)
class CosineKernels:
    """Fused normalise-matmul-softmax and normalise-matmul-top-k for one instruction set.

    Zero rows have cosine 0 with everything (norms are clamped at 1e-12); a row with NaN or an infinity has NaN.
    Results are the same bits for any thread count and any neighbours in the batch.
    """

    isa: str

    def similarity(self, queries: Tensor, keys: Tensor, scale: float) -> Tensor:
        """p = softmax over keys of scale * cos(query, key); see `clipfast.ops.Similarity`.

        Args:
            queries: (M, E) float32, float16 or bfloat16, unit stride in the last axis. keys: (N, E), same dtype.
            scale: finite.
        Returns: (M, N) float32.
        Raises:
            InputError: a shape, dtype, device or stride is not as above.
            ConfigurationError: scale is not finite.
        """
        from clipfast import _native

        if not math.isfinite(scale):
            raise ConfigurationError(f"similarity needs a finite scale, got {scale!r}")
        _check("similarity", queries, keys)
        out = torch.empty(len(queries), len(keys), dtype=torch.float32)
        _native.similarity(
            matrix(queries),
            matrix(keys),
            queries.shape[1],
            DTYPES[queries.dtype],
            scale,
            out.data_ptr(),
            self.isa,
            threads(),
        )
        return out

    def top_k(self, queries: Tensor, gallery: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k largest cosines of each query; see `clipfast.ops.TopK`. NaN ranks below every number.

        Args:
            queries: (M, E) float32, float16 or bfloat16, unit stride in the last axis. gallery: (N, E), same dtype.
            k: 0 .. N.
        Returns: scores (M, k) float32 descending, indices (M, k) int64; ties go to the lower index.
        Raises:
            InputError: a shape, dtype, device or stride is not as above.
            ConfigurationError: k is out of range.
        """
        from clipfast import _native

        _check("top_k", queries, gallery)
        if not 0 <= k <= len(gallery):
            raise ConfigurationError(
                f"top_k needs k in 0 .. {len(gallery)} (gallery rows), got {k}"
            )
        scores = torch.empty(len(queries), k, dtype=torch.float32)
        indices = torch.empty(len(queries), k, dtype=torch.int64)
        if k > 0:
            _native.top_k(
                matrix(queries),
                matrix(gallery),
                queries.shape[1],
                DTYPES[queries.dtype],
                k,
                scores.data_ptr(),
                indices.data_ptr(),
                self.isa,
                threads(),
            )
        return scores, indices


def _check(operation: str, queries: Tensor, rows: Tensor) -> None:
    """Raises InputError unless both are (rows, E) matrices of one dtype that the kernels can read."""
    for tensor in (queries, rows):
        check_matrix(operation, tensor)
    if queries.dtype != rows.dtype:
        raise InputError(
            f"{operation} needs one dtype, got {queries.dtype} and {rows.dtype}", code="wrong_type"
        )
    if queries.shape[1] != rows.shape[1]:
        raise InputError(
            f"{operation} needs one width E, got {queries.shape[1]} and {rows.shape[1]}",
            code="wrong_shape",
        )
