"""The triton backend: whole towers end to end against float64, its choice, its refusals, what it borrows."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clipfast.backends import select_ops, triton
from clipfast.backends.reference import REFERENCE
from clipfast.checkpoint.folds import fold
from clipfast.config import ModelConfig
from clipfast.encoder import TowerEncoder
from clipfast.engine import Engine
from clipfast.inputs import load_tokenizer
from clipfast.ops import OPERATIONS
from clipfast.parameters import map_tensors
from tests.engine.engines import encode_texts
from tests.kernels.parity import Operands
from tests.tolerances import TRITON_TOWER_COSINE
from tests.weights import random_weights, tiny, tiny_resnet

TEXTS = ["", "a photo of a cat", "a photo of a dog", "a photo", "seven red cats in the snow"]


def encoders(
    config: ModelConfig, device: torch.device, dtype: torch.dtype
) -> tuple[TowerEncoder, TowerEncoder]:
    """The triton backend in dtype on the device, and the reference in float64."""
    weights = random_weights(config, seed=3)
    ops = select_ops("triton", device=device, dtype=dtype)
    parameters = map_tensors(fold(weights, config, dtype), lambda part: part.to(device))
    exact = fold(weights, config, torch.float64)
    return (
        TowerEncoder(config, parameters, ops, device),
        TowerEncoder(config, exact, REFERENCE, torch.device("cpu")),
    )


def assert_same_directions(actual: torch.Tensor, exact: torch.Tensor, dtype: torch.dtype) -> None:
    cosine = F.cosine_similarity(actual.cpu().double(), exact, dim=1).min().item()
    print(f"smallest cosine to float64: 1 - {1 - cosine:.1e}")
    assert cosine >= TRITON_TOWER_COSINE[str(dtype).removeprefix("torch.")]


@pytest.mark.parametrize(
    ("activation", "dtype"),
    [("quick_gelu", torch.float32), ("gelu", torch.float16), ("quick_gelu", torch.bfloat16)],
    ids=str,
)
def test_vision_tower(
    operands: Operands, device: torch.device, activation: str, dtype: torch.dtype
) -> None:
    kernels, exact = encoders(tiny(activation), device, dtype)
    pixels = operands.bytes(2, 3, 64, 64)
    assert_same_directions(kernels.encode_pixels(pixels), exact.encode_pixels(pixels.cpu()), dtype)


def test_channels_last_and_float_pixels(operands: Operands, device: torch.device) -> None:
    kernels, exact = encoders(tiny(), device, torch.float32)
    pixels = operands.bytes(1, 64, 64, 3).permute(0, 3, 1, 2)
    assert_same_directions(
        kernels.encode_pixels(pixels), exact.encode_pixels(pixels.cpu()), torch.float32
    )
    floats = operands(1, 3, 64, 64)
    assert_same_directions(
        kernels.encode_pixels(floats), exact.encode_pixels(floats.cpu()), torch.float32
    )


def test_resnet(operands: Operands, device: torch.device) -> None:
    kernels, exact = encoders(tiny_resnet(), device, torch.float32)
    pixels = operands.bytes(2, 3, 64, 64)
    assert_same_directions(
        kernels.encode_pixels(pixels), exact.encode_pixels(pixels.cpu()), torch.float32
    )


@pytest.mark.parametrize("share_prefixes", [True, False], ids=["tree", "packed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_text_tower(device: torch.device, dtype: torch.dtype, share_prefixes: bool) -> None:
    kernels, exact = (
        Engine(encoder, load_tokenizer()) for encoder in encoders(tiny(), device, dtype)
    )
    actual = encode_texts(kernels, TEXTS, share_prefixes=share_prefixes)
    assert_same_directions(actual, encode_texts(exact, TEXTS), dtype)


def test_hidden_states(operands: Operands, device: torch.device) -> None:
    kernels, exact = encoders(tiny(), device, torch.float32)
    pixels = operands.bytes(1, 3, 64, 64)
    actual, expected = kernels.image_tokens(pixels, 2), exact.image_tokens(pixels.cpu(), 2)
    assert_same_directions(actual.flatten(0, 1), expected.flatten(0, 1), torch.float32)


def test_no_inputs(operands: Operands, device: torch.device) -> None:
    kernels, _ = encoders(tiny(), device, torch.float16)
    assert kernels.encode_pixels(operands.bytes(0, 3, 64, 64)).shape == (0, 32)


def test_row_statistics_behind_the_contract(operands: Operands, device: torch.device) -> None:
    ops = select_ops("triton", device=device, dtype=torch.float32)
    x, weight, residual = operands(70, 64), operands(300, 64), operands(70, 300)
    y, stats = ops.linear(x, weight, None, residual=residual, return_row_stats=True)
    assert stats.shape == (70,)
    assert np.allclose(stats.cpu(), y.square().sum(1).cpu(), rtol=1e-5)
    y, r = ops.layer_norm(x, None, None, 1e-5, residual[:, :64])
    assert torch.allclose(r, x + residual[:, :64])
    assert y.dtype == torch.float32


def test_says_what_it_runs_and_what_it_borrows(device: torch.device) -> None:
    ops = select_ops("triton", device=device, dtype=torch.float16)
    described = ops.describe()
    borrowed = {name for name in OPERATIONS if described[name] != "triton"}
    assert borrowed == {"convolution"}
    assert described["convolution"] == "reference (torch)"
    for name in OPERATIONS:
        reason = ops.unsupported_reason(name, device=device, dtype=torch.float64)
        assert (reason is None) == (name == "convolution")


def test_refuses_dtypes_devices_and_old_gpus_in_words(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = triton.unsupported_reason(device, torch.float64)
    assert reason is not None
    assert "not torch.float64" in reason
    meta = triton.unsupported_reason(torch.device("meta"), torch.float32)
    assert meta == "its kernels run on CUDA devices, not on meta"
    from clipfast.kernels import attention, layer_norm, linear

    for module in (attention, layer_norm, linear):
        assert module.unsupported_reason(torch.float16, 90) is None
        old = module.unsupported_reason(torch.float16, 75)
        assert old == "the kernels need compute capability 8.0 or newer, not 7.5"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert triton.unsupported_reason(device, torch.float16) == (
        "triton is not installed; pip install clipfast[gpu] brings it"
    )


def test_without_the_interpreter_the_cpu_is_refused() -> None:
    code = (
        "import torch; from clipfast.backends.triton import unsupported_reason\n"
        "print(unsupported_reason(torch.device('cpu'), torch.float32))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == (
        "its kernels run on GPUs; on the CPU only in Triton's interpreter (TRITON_INTERPRET=1)"
    )
