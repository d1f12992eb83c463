"""The C++ kernels under test, one instruction set each, and the float64 truth that judges them."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from clipfast.backends.cpu import CosineKernels
from clipfast.backends.cpu_towers import TowerKernels
from clipfast.environment import ISAS

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def has_panels() -> bool:
    """Whether this build and processor multiply weights in panels."""
    if find_spec("clipfast._native") is None:
        return False
    from clipfast import _native

    return "avx512_bf16" in _native.supported_isas()


needs_native = pytest.mark.skipif(
    find_spec("clipfast._native") is None, reason="clipfast was built without the C++ extension"
)

needs_panels = pytest.mark.skipif(
    not has_panels(), reason="this processor lacks what multiplies panels, avx512_bf16"
)


def kernels_for(isa: str) -> CosineKernels:
    from clipfast import _native

    if isa not in _native.supported_isas():
        pytest.skip(f"this processor lacks {isa}")
    return CosineKernels(isa)


@pytest.fixture(params=[isa for isa in ISAS if isa != "auto"])
def kernels(request: pytest.FixtureRequest) -> CosineKernels:
    return kernels_for(request.param)


@pytest.fixture(params=[isa for isa in ISAS if isa != "auto"])
def towers(request: pytest.FixtureRequest) -> TowerKernels:
    return TowerKernels(kernels_for(request.param).isa)


def rows(count: int, width: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Rows of very different lengths, so that a forgotten normalisation shows."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.logspace(-2, 2, max(count, 1))[:count, None]
    return (torch.randn(count, width, generator=generator) * lengths).to(dtype)


def cosines(queries: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
    """(M, N) float64 cosines, norms clamped at 1e-12."""
    unit = [
        x.double() / x.double().norm(dim=-1, keepdim=True).clamp_min(1e-12)
        for x in (queries, gallery)
    ]
    return unit[0] @ unit[1].T
