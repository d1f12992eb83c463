"""The triton backend: whole towers end to end against float64, its choice, its refusals, what it borrows."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import clipfast
from clipfast import scoring
from clipfast.backends import select_ops, triton
from clipfast.backends.reference import REFERENCE
from clipfast.checkpoint import load_checkpoint
from clipfast.checkpoint.folds import fold
from clipfast.demo.samples import draw_samples
from clipfast.model import encode_resnet, encode_text, encode_vision, vision_tokens
from clipfast.ops import OPERATIONS, Ops
from clipfast.parameters import Parameters
from tests.kernels.parity import Operands, assert_parity
from tests.kernels.towers import Texts, Towers, packed, shared
from tests.random_weights import random_weights, tiny, tiny_resnet, with_outliers
from tests.tolerances import KERNEL_ERROR_FACTOR, TRITON_TOWER_COSINE

TEXTS: Texts = [
    [49406, 49407],
    [49406, 320, 1125, 539, 2368, 49407],
    [49406, 320, 1125, 539, 1929, 49407],
    [49406, 320, 1125, 49407],
    [49406, *range(1000, 1040), 49407],
]


def assert_same_directions(towers: Towers, kernels: torch.Tensor, exact: torch.Tensor) -> None:
    cosine = F.cosine_similarity(kernels, exact, dim=-1).min().item()
    print(f"smallest cosine to float64: 1 - {1 - cosine:.1e}")
    assert cosine >= TRITON_TOWER_COSINE[str(towers.dtype).removeprefix("torch.")]


def check_vision(towers: Towers, pixels: torch.Tensor) -> None:
    encode = encode_resnet if "resnet" in towers.config.name else encode_vision
    vision = towers.config.vision
    assert_same_directions(
        towers, *towers.both(lambda p, ops, on: encode(p.vision, vision, ops, pixels.to(on)))
    )


@pytest.mark.parametrize(
    ("activation", "dtype"),
    [("quick_gelu", torch.float32), ("gelu", torch.float16), ("quick_gelu", torch.bfloat16)],
    ids=str,
)
def test_vision_tower(
    operands: Operands, device: torch.device, activation: str, dtype: torch.dtype
) -> None:
    check_vision(Towers(tiny(activation), device, dtype), operands.bytes(2, 3, 64, 64))


def test_channels_last_and_float_pixels(operands: Operands, device: torch.device) -> None:
    towers = Towers(tiny(), device, torch.float32)
    check_vision(towers, operands.bytes(1, 64, 64, 3).permute(0, 3, 1, 2))
    check_vision(towers, operands(1, 3, 64, 64))


def test_resnet(operands: Operands, device: torch.device) -> None:
    check_vision(Towers(tiny_resnet(), device, torch.float32), operands.bytes(2, 3, 64, 64))


@pytest.mark.parametrize("layout", [shared, packed], ids=["tree", "packed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_text_tower(device: torch.device, dtype: torch.dtype, layout: type) -> None:
    towers = Towers(tiny(), device, dtype)
    text = towers.config.text
    kernels, _ = towers.both(lambda p, ops, on: encode_text(p.text, text, ops, layout(TEXTS, on)))
    _, exact = towers.both(lambda p, ops, on: encode_text(p.text, text, ops, packed(TEXTS, on)))
    assert_same_directions(towers, kernels, exact)


@pytest.mark.slow
def test_demo_weights(device: torch.device) -> None:
    checkpoint = load_checkpoint("demo")
    towers = Towers(checkpoint.config, device, torch.float32, checkpoint.tensors)
    drawn = torch.from_numpy(np.stack([np.asarray(s.image) for s in draw_samples()[:1]]))
    size = checkpoint.config.vision.image_size
    check_vision(towers, drawn[:, :size, :size].permute(0, 3, 1, 2))
    text = towers.config.text
    assert_same_directions(
        towers, *towers.both(lambda p, ops, on: encode_text(p.text, text, ops, packed(TEXTS, on)))
    )


def test_hidden_states(operands: Operands, device: torch.device) -> None:
    towers = Towers(tiny(), device, torch.float32)
    pixels, vision = operands.bytes(1, 3, 64, 64), towers.config.vision
    assert_same_directions(
        towers,
        *towers.both(lambda p, ops, on: vision_tokens(p.vision, vision, ops, pixels.to(on), 2)),
    )


def test_no_images(operands: Operands, device: torch.device) -> None:
    towers = Towers(tiny(), device, torch.float16)
    pixels, vision = operands.bytes(0, 3, 64, 64), towers.config.vision
    kernels, _ = towers.both(lambda p, ops, on: encode_vision(p.vision, vision, ops, pixels.to(on)))
    assert kernels.shape == (0, 32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_layer_norm_between_two_products(
    operands: Operands, device: torch.device, dtype: torch.dtype
) -> None:
    ops = select_ops("triton", device=device, dtype=dtype)
    assert ops.stream is not None
    x, weight, residual = (
        operands(70, 64, dtype=dtype),
        operands(300, 64, dtype=dtype),
        operands(70, 300) + 1,
    )
    stream = ops.stream.add(x, weight, None, residual)
    assert torch.equal(stream.x, ops.linear(x, weight, None, residual=residual))
    assert torch.equal(stream.narrow, stream.x.to(dtype))
    assert (stream.narrow is stream.x) == (dtype == torch.float32)
    reader = operands(96, 300, std=300**-0.5)
    reader = (reader - reader.mean(dim=1, keepdim=True)).to(dtype)
    picked = torch.tensor([3, 69, 3], device=device)
    y = ops.stream.read(stream, reader, None, 1e-5, activation="silu")
    few = ops.stream.read(stream[picked], reader, None, 1e-5, activation="silu")
    wide = F.layer_norm(stream.x.double(), [300], eps=1e-5)
    plain = F.layer_norm(stream.x, [300], eps=1e-5).to(dtype)
    exact, of_torch = F.silu(wide @ reader.double().T), F.silu(plain @ reader.T)
    assert_parity(y, exact, of_torch)
    assert_parity(few, exact[picked], of_torch[picked])


@pytest.mark.parametrize("tower", ["images", "texts"])
def test_towers_with_outliers(operands: Operands, device: torch.device, tower: str) -> None:
    """Cosine to float64 no worse than plain torch's in the same dtypes, whose LayerNorms are apart."""
    config, bf16 = tiny(layers=3), torch.bfloat16
    weights = with_outliers(random_weights(config, seed=3))
    towers, pixels = Towers(config, device, bf16, weights), operands.bytes(3, 3, 64, 64)

    def run(p: Parameters, ops: Ops, on: torch.device) -> torch.Tensor:
        if tower == "images":
            return encode_vision(p.vision, config.vision, ops, pixels.to(on))  # type: ignore[arg-type]
        return encode_text(p.text, config.text, ops, packed(TEXTS, on))

    kernels, exact = towers.both(run)
    assert_same_directions(towers, kernels, exact)
    plain = run(fold(weights, config, bf16), REFERENCE, torch.device("cpu")).double()
    errors = [1 - F.cosine_similarity(rows, exact).min().item() for rows in (kernels, plain)]
    print(f"1 - cosine: {errors[0]:.1e}, plain torch {errors[1]:.1e}")
    assert errors[0] <= KERNEL_ERROR_FACTOR * errors[1]


@pytest.mark.parametrize("pairs", [1, 70, 130])
def test_contrastive_loss_is_the_mean_cross_entropy(
    operands: Operands, device: torch.device, monkeypatch: pytest.MonkeyPatch, pairs: int
) -> None:
    ops = select_ops("triton", device=device, dtype=torch.float32)
    monkeypatch.setattr(scoring, "_ops", lambda *_: ops)
    images = operands(pairs, 64)
    texts = images + operands(pairs, 64)
    logits = 30 * F.normalize(images.double()) @ F.normalize(texts.double()).T
    target = torch.arange(pairs, device=device)
    truth = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)).item() / 2
    loss = clipfast.contrastive_loss(images, texts, 30.0)
    print(f"error of the loss: {abs(loss - truth):.1e}")
    assert loss == pytest.approx(truth, abs=1e-5)


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
