"""The kernels behind the engine's device layer: batches, graphs and lack of memory change no row of the towers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_rows_of_normalised_images_on_the_host_come_back(
    weights: Weights, device: torch.device
) -> None:
    ours = engine(weights, device, layer_of(device))
    images = torch.randn(3, 3, 64, 64)
    assert encode_images(ours, images).device.type == "cpu"
    assert encode_images(ours, list(images)).device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_images_are_read_after_the_callers_stream_has_written_them(
    weights: Weights, device: torch.device
) -> None:
    ours = engine(weights, device, layer_of(device))
    pixels = torch.randint(0, 256, (7, 3, 64, 64), dtype=torch.uint8).to(device)
    expected = encode_images(ours, list(pixels))
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(200_000_000)
        late = [image.clone() for image in pixels]
        rows = encode_images(ours, late)
    assert torch.equal(rows, expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_capture_that_another_thread_breaks_costs_no_row_and_no_other_graph(
    weights: Weights, device: torch.device
) -> None:
    ours = engine(weights, device, layer_of(device))
    pixels = torch.randint(0, 256, (40, 3, 64, 64), dtype=torch.uint8)
    expected = encode_images(exact(weights), pixels)
    stop = threading.Event()

    def wait_for_the_device() -> None:
        while not stop.is_set():
            torch.cuda.synchronize()

    with ThreadPoolExecutor(1) as others:
        waiting = others.submit(wait_for_the_device)
        try:
            for count in (1, 2, 4, 8, 40):
                assert_close(encode_images(ours, pixels[:count].to(device)), expected[:count])
        finally:
            stop.set()
        # In an active capture, waiting for the device is the error that the other thread sees.
        waiting.exception()
    assert_close(encode_images(ours, pixels.to(device)), expected)
