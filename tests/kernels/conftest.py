"""The kernels on the GPU where there is one, else on the CPU in Triton's interpreter.

The interpreter is chosen when the kernels are imported, so that happens here, once, and the variable goes again: other
tests and their processes never see it.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tests.kernels.parity import Operands

KERNELS = (
    "attention",
    "attention_pool",
    "layer_norm",
    "linear",
    "linear_8bit",
    "linear_split",
    "patch_embed",
    "similarity",
    "top_k",
)
ON_GPU = torch.cuda.is_available()

if not ON_GPU:
    assert "triton" not in sys.modules, "triton was imported before its interpreter could be chosen"
    os.environ["TRITON_INTERPRET"] = "1"
    # Triton imports this when the first kernel runs, and asks for the variable again.
    importlib.import_module("triton.experimental.gluon")
    for name in KERNELS:
        importlib.import_module(f"clipfast.kernels.{name}")
    del os.environ["TRITON_INTERPRET"]

from clipfast.kernels.hardware import Hardware, hardware_of  # noqa: E402


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if ON_GPU else "cpu")


@pytest.fixture
def operands(device: torch.device) -> Operands:
    """Random operands on the device, the same for every run."""
    return Operands(device)


@pytest.fixture(params=[80, 90])
def hardware(request: pytest.FixtureRequest, device: torch.device) -> Hardware:
    """The tiles of 80 (pointers) and of 90 (descriptors), on three programs so that each has several tiles."""
    real = hardware_of(device).architecture
    if ON_GPU and real < request.param:
        pytest.skip(f"the device is sm_{real}, the tiles are for sm_{request.param}")
    return Hardware(
        max(request.param, real) if ON_GPU and request.param == 90 else request.param, 3
    )


@pytest.fixture(autouse=True)
def unwritten_outputs_are_nan() -> Iterator[None]:
    """torch.empty is filled with NaN, or the largest integer, so that a hole in an output cannot look right."""
    asked = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(asked[0], warn_only=asked[1])


@pytest.fixture(autouse=True)
def interpreted_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Triton's interpreter gets wrong, put right: it multiplies bf16's bit patterns, drops the carry when it
    rounds to fp8, and cuts bf16 off. Products of 16-bit operands are widened to float32 first, and torch rounds."""
    if ON_GPU:
        return
    from triton.language import bfloat16, float8e4nv, float32
    from triton.runtime import interpreter

    builder, handle = interpreter.interpreter_builder, interpreter.TensorHandle
    create_dot = builder.create_dot

    def widened(operand: interpreter.TensorHandle) -> interpreter.TensorHandle:
        if operand.dtype.scalar == bfloat16:
            return handle((operand.data.astype(np.uint32) << 16).view(np.float32), float32)
        if operand.data.dtype == np.float16:
            return handle(operand.data.astype(np.float32), float32)
        return operand

    def rounding(convert: Callable[..., interpreter.TensorHandle]) -> Callable[..., object]:
        known = {
            bfloat16: (torch.bfloat16, torch.uint16),
            float8e4nv: (torch.float8_e4m3fn, torch.uint8),
        }

        def rounded(operand: interpreter.TensorHandle, to: Any, *mode: object) -> object:
            if operand.dtype.scalar != float32 or to.scalar not in known:
                return convert(operand, to, *mode)
            dtype, bits = known[to.scalar]
            narrow = torch.from_numpy(np.ascontiguousarray(operand.data)).to(dtype)
            return handle(narrow.view(bits).numpy(), to.scalar)

        return rounded

    monkeypatch.setattr(
        builder, "create_dot", lambda a, b, *rest: create_dot(widened(a), widened(b), *rest)
    )
    monkeypatch.setattr(builder, "cast_impl", rounding(builder.cast_impl))
    monkeypatch.setattr(builder, "create_fp_to_fp", rounding(builder.create_fp_to_fp))
