"""What a figure of `make gpu` belongs to: the host's share of a batch, the commit, the versions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.gpu import device_state
from benchmarks.gpu.host_time import replays
from clipfast.backends.reference import REFERENCE
from clipfast.checkpoint.folds import fold
from clipfast.device import HostLayer
from clipfast.encoder import TowerEncoder
from clipfast.engine import Engine
from clipfast.inputs import EXACT, load_tokenizer
from tests.random_weights import random_weights, tiny


class Counted(HostLayer):
    """A device whose graphs say that they were replayed."""

    def __init__(self) -> None:
        super().__init__()
        self.replayed: list[int] = []

    def capture(self, work, pool):
        graph, result = super().capture(work, pool)

        def counted() -> torch.Tensor:
            self.replayed.append(len(result))
            return work()

        return replace(graph, work=counted), result


def encode(engine: Engine, images: torch.Tensor) -> torch.Tensor:
    return engine.encode_images(
        images,
        batch_size=None,
        normalize=True,
        errors="raise",
        progress=False,
        num_workers=None,
        output_device=None,
        decode=EXACT,
    )


def test_graphs_of_a_batch_are_replayed_alone() -> None:
    config, layer = tiny(layers=1), Counted()
    parameters = fold(random_weights(config, seed=0), config, torch.float32)
    encoder = TowerEncoder(config, parameters, REFERENCE, layer.device)
    engine = Engine(encoder, load_tokenizer(), layer=layer)
    assert replays(engine, 2) is None  # before its first batch
    encode(engine, layer.device_buffer((2, 3, 64, 64), torch.uint8))
    layer.replayed.clear()
    replay = replays(engine, 2)
    assert replay is not None
    replay()
    assert layer.replayed == [2]
    assert replays(engine, 64) is None
    assert replays(Engine(encoder, load_tokenizer()), 2) is None


def test_files_without_history_have_the_commit_that_they_are_said_to_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CLIPFAST_COMMIT", "abc")
    monkeypatch.setattr(device_state, "commit_info", lambda: {"id": "unknown", "dirty": False})
    assert device_state.commit()["id"] == "abc"
    monkeypatch.delenv("CLIPFAST_COMMIT")
    assert device_state.commit()["id"] == "unknown"
    monkeypatch.setenv("CLIPFAST_COMMIT", "abc")
    monkeypatch.setattr(device_state, "commit_info", lambda: {"id": "def", "dirty": False})
    assert device_state.commit()["id"] == "def"


def test_clocks_and_what_holds_them_down(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(command: list[str]) -> str:
        fields = command[1].partition("=")[2]
        if "event_reasons" in fields:
            return ""  # an older driver's answer
        return "0x4" if "throttle" in fields else "1980 MHz, 2619 MHz, 1980 MHz, 690 W, 700 W, 60"

    monkeypatch.setattr(device_state, "_said_by", said)
    found = device_state.clocks()
    assert (found["clocks.sm"], found["power.draw"], found["held down by"]) == (
        "1980 MHz",
        "690 W",
        "0x4",
    )
    monkeypatch.setattr(device_state, "_said_by", lambda _: "")
    assert device_state.clocks() == {"nvidia-smi": "not available here"}


def test_versions_are_said_or_said_to_be_unknown() -> None:
    found = device_state.versions()
    assert found["torch"] == torch.__version__
    assert {"cuDNN", "cuBLASLt", "nvcc"} <= set(found)
