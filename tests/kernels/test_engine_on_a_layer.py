"""The kernels behind the engine's device layer: batches, graphs and lack of memory change no row of the towers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from clipfast.backends import select_ops
from clipfast.checkpoint.folds import fold
from clipfast.device import CudaLayer, DeviceLayer, HostLayer
from clipfast.encoder import TowerEncoder
from clipfast.engine import Engine
from clipfast.inputs import load_tokenizer
from clipfast.parameters import map_tensors
from tests.engine.engines import encode_images, encode_texts
from tests.random_weights import random_weights, tiny
from tests.tolerances import TRITON_TOWER_COSINE
from tests.weights import Weights

TEXTS = ["a photo of a cat", "a photo of a dog", "red"]


@pytest.fixture(scope="module")
def weights() -> Weights:
    return random_weights(tiny(), seed=0)


def engine(weights: Weights, device: torch.device, layer: DeviceLayer) -> Engine:
    parameters = map_tensors(fold(weights, tiny(), torch.float16), lambda part: part.to(device))
    ops = select_ops("triton", device=device, dtype=torch.float16)
    return Engine(TowerEncoder(tiny(), parameters, ops, device), load_tokenizer(), layer=layer)


def layer_of(device: torch.device) -> DeviceLayer:
    """The GPU, or the CPU where everything runs as late as it may."""
    if device.type == "cuda":
        return CudaLayer(device)
    return HostLayer(lazy=("copy", "compute", "back"))


def exact(weights: Weights) -> Engine:
    from clipfast.backends.reference import REFERENCE

    parameters = fold(weights, tiny(), torch.float64)
    return Engine(
        TowerEncoder(tiny(), parameters, REFERENCE, torch.device("cpu")), load_tokenizer()
    )


def assert_close(rows: torch.Tensor, truth: torch.Tensor) -> None:
    cosine = F.cosine_similarity(rows.cpu().double(), truth, dim=-1).min().item()
    print(f"smallest cosine to float64: 1 - {1 - cosine:.1e}")
    assert cosine >= TRITON_TOWER_COSINE["float16"]


def test_images_in_order_though_memory_runs_out(weights: Weights, device: torch.device) -> None:
    pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    layer = layer_of(device)
    if isinstance(layer, HostLayer):
        layer.fail("device_buffer")
    ours = engine(weights, device, layer)
    assert_close(encode_images(ours, pixels, batch_size=2), encode_images(exact(weights), pixels))
    assert ours.placement is not None
    assert ours.placement.images.describe()["graphs"]


def test_texts(weights: Weights, device: torch.device) -> None:
    ours = engine(weights, device, layer_of(device))
    truth = encode_texts(exact(weights), TEXTS)
    assert_close(encode_texts(ours, TEXTS, share_prefixes=False), truth)
    assert_close(encode_texts(ours, TEXTS, share_prefixes=True), truth)
    assert ours.placement is not None
    assert ours.placement.texts is not None
    assert ours.placement.texts.sizes


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_images_of_the_device_stay_there(weights: Weights, device: torch.device) -> None:
    ours = engine(weights, device, layer_of(device))
    pixels = torch.randint(0, 256, (7, 3, 64, 64), dtype=torch.uint8)
    rows = encode_images(ours, pixels.to(device))
    assert rows.device == torch.device("cuda", torch.cuda.current_device())
    assert_close(rows, encode_images(exact(weights), pixels))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        again = encode_images(ours, pixels.to(device))
    stream.synchronize()
    assert torch.equal(rows, again)
    assert torch.equal(rows.cpu(), encode_images(ours, pixels))
