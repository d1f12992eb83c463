"""Tapes: the same bits as the calls that they hold, whatever input, and only of what they can hold."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from clipfast.backends import cpu_tape, select_ops
from clipfast.backends.cpu_tape import Recording, Repeated
from clipfast.backends.cpu_towers import TowerKernels
from clipfast.checkpoint.folds import fold
from clipfast.config import ModelConfig
from clipfast.encoder import TowerEncoder
from tests.native.kernels import needs_native, needs_panels
from tests.native.test_towers import config  # noqa: F401  (a fixture)
from tests.random_weights import random_weights

pytestmark = needs_native
WIDTH = 24


class Layers:
    """Three LayerNorms in a row, as a tower calls them; `calls` counts how often Python did."""

    def __init__(self) -> None:
        self.calls = 0
        self.weight = torch.linspace(0.5, 2, WIDTH)
        self.kernels = TowerKernels("serial")

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        for bias in range(3):
            shift = torch.full((WIDTH,), float(bias))  # a constant of the call, made anew
            y = self.kernels.layer_norm(x, self.weight, shift, 1e-5)
            assert isinstance(y, torch.Tensor)
            x = y[:, :WIDTH]
        return x


def rows(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def test_later_calls_need_no_python_and_give_the_same_bits() -> None:
    layers = Layers()
    repeated = Repeated(layers)
    for seed in range(6):
        x = rows(5, seed)
        assert torch.equal(repeated(x), Layers()(x))
    assert layers.calls == 1, "to be recorded"


def test_rows_that_left_are_not_written_again() -> None:
    repeated = Repeated(Layers())
    first, second = [repeated(rows(4, 0)) for _ in range(3)][-1], rows(4, 1)
    before = first.clone()
    repeated(second)
    assert torch.equal(first, before)


def test_each_shape_and_layout_is_its_own() -> None:
    repeated = Repeated(Layers())
    for _ in range(3):
        for count in (1, 4, 7):
            x = rows(count, count)
            assert torch.equal(repeated(x), Layers()(x))
        strided = rows(8, 9)[::2]
        assert torch.equal(repeated(strided), Layers()(strided))


def test_memory_is_used_again_within_a_tape() -> None:
    x = rows(64, 0)
    recording = Recording(x)
    y = recording.of(Layers())
    assert recording.foreign is None
    assert y.nbytes == x.nbytes
    assert recording.bytes == 3 * x.nbytes, (
        "the input, and what a layer reads and the next one writes"
    )


def test_idle_tapes_are_bounded_by_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = Layers()
    repeated = Repeated(layers)
    repeated(rows(64, 0))
    one = repeated.idle_bytes
    monkeypatch.setattr(cpu_tape, "MOST_IDLE_BYTES", 2 * one)
    repeated(rows(63, 0))
    repeated(rows(64, 0))
    assert layers.calls == 2
    repeated(rows(62, 0))
    assert repeated.idle_bytes <= 2 * one
    repeated(rows(64, 0))
    assert layers.calls == 3, "it was used after the one of 63, which had to go"
    repeated(rows(63, 0))
    assert layers.calls == 4
    repeated(rows(1000, 0))
    assert [shape[0][0] for shape in repeated._idle] == [1000], (
        "the last one stays, whatever its size"
    )


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 100, 4097, 9_633_792, 9_830_400])
def test_blocks_are_little_larger_than_what_they_hold(count: int) -> None:
    size = cpu_tape._block_size(count)
    assert count <= size <= max(count, count * 9 // 8 + 1)
    assert cpu_tape._block_size(size) == size


def foreign(x: torch.Tensor) -> Iterator[torch.Tensor]:
    layers = Layers()
    yield layers(x) + 1  # arithmetic of torch's
    yield layers(x).float().contiguous().t().contiguous()
    yield layers(x)[torch.tensor([0])]
    yield layers(x * 2)
    yield layers(x).index_fill_(0, torch.tensor([0]), 0.0)
    yield layers(x).clamp(max=x.max().item())
    elsewhere = torch.empty_like(x)
    layers.kernels._normalise(x, None, elsewhere, None, None, 1e-5)
    yield elsewhere + 1


@pytest.mark.parametrize("which", range(7))
def test_what_torch_computes_is_never_replayed(which: int) -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        for at, y in enumerate(foreign(x)):
            if at == which:
                return y
        raise AssertionError

    repeated = Repeated(function)
    for seed in range(4):
        x = rows(3, seed)
        assert torch.equal(repeated(x), function(x))


def test_an_error_while_recording_leaves_nothing_behind() -> None:
    layers = Layers()
    failing = [True, False]

    def function(x: torch.Tensor) -> torch.Tensor:
        y = layers(x)
        if failing.pop(0):
            raise ValueError("once")
        return y

    repeated = Repeated(function)
    x = rows(3, 0)
    with pytest.raises(ValueError, match="once"):
        repeated(x)
    assert cpu_tape._of_thread.recording is None
    assert torch.equal(repeated(x), Layers()(x))


def test_threads_have_tapes_of_their_own() -> None:
    repeated, together = Repeated(Layers()), threading.Barrier(4, timeout=20)

    def work(seed: int) -> bool:
        together.wait()
        return all(
            torch.equal(repeated(x), Layers()(x))
            for x in (rows(64, 100 * seed + turn) for turn in range(20))
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_recording_imports_no_compiler() -> None:
    """In a process of its own: torch's compiler would take 140 MB and a second of the first batch."""
    code = """
import sys, torch
from clipfast.backends.cpu_tape import Repeated
from clipfast.backends.cpu_towers import TowerKernels

normalise = Repeated(lambda x: TowerKernels("serial").layer_norm(x, None, None, 1e-5))
normalise(torch.ones(2, 8))
print(normalise.idle_bytes > 0, "torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"], "recorded, without it"


def test_forgetting_gives_the_memory_back() -> None:
    repeated = Repeated(Layers())
    for _ in range(3):
        repeated(rows(5, 0))
    assert any(repeated._idle.values())
    repeated.forget()
    gc.collect()
    assert not repeated._idle
    assert torch.equal(repeated(rows(5, 1)), Layers()(rows(5, 1)))


@needs_panels
@pytest.mark.parametrize("precision", ["bf16", "fp32", "int8"])
def test_a_vision_tower_is_recorded_whole(config: ModelConfig, precision: str) -> None:  # noqa: F811
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    ops = select_ops("cpu", device=torch.device("cpu"), dtype=dtype)
    quantise = ops.quantise if precision == "int8" else None
    parameters = fold(random_weights(config, seed=3), config, dtype, ops.prepare, quantise)
    encoder = TowerEncoder(config, parameters, ops, torch.device("cpu"))
    with torch.inference_mode():
        for seed in range(4):
            generator = torch.Generator().manual_seed(seed)
            pixels = torch.randint(0, 256, (5, 3, 96, 96), generator=generator).to(torch.uint8)
            plain = encoder._encode_vision(pixels).to(torch.float32)
            assert torch.equal(encoder.encode_pixels(pixels), plain)
    assert isinstance(encoder._repeated, Repeated)
    assert [len(tapes) for tapes in encoder._repeated._idle.values()] == [1]
    encoder.release()
    assert not encoder._repeated._idle
