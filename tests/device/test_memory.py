"""A batch that does not fit is halved once, the limit is remembered, what was encoded is kept; one item is an error."""

from __future__ import annotations

import gc
import weakref
from typing import NoReturn

import pytest
import torch

from clipfast.device import Batching, DeviceImages, HostLayer, HostMemoryError, MemoryLimit
from clipfast.errors import DeviceMemoryError


class Small:
    """Encodes at most `room` rows at once."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.tried: list[int] = []
        self.activations: list[weakref.ref[torch.Tensor]] = []

    def __call__(self, items: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        self.tried.append(len(items))
        activation = items * 2
        self.activations.append(weakref.ref(activation))
        if len(items) > self.room:
            raise HostMemoryError("too many")
        return activation.float()


def even(count: int, limit: int | None) -> list[int]:
    limit = limit or count
    return [limit] * (count // limit) + ([count % limit] if count % limit else [])


def limit_of(layer: HostLayer, released: list[int] | None = None) -> MemoryLimit:
    return MemoryLimit(layer, lambda: None if released is None else released.append(1))


def test_one_failure_halves_once_and_is_remembered() -> None:
    layer, encode, released = HostLayer(), Small(5), list[int]()
    memory = limit_of(layer, released)
    items = torch.arange(20).view(20, 1)
    assert torch.equal(memory.run(encode, items, even, 8), items * 2.0)
    assert encode.tried == [8, 4, 4, 4, 4, 4]
    assert memory.limit == 4
    assert torch.equal(memory.run(encode, items, even, 8), items * 2.0)
    assert encode.tried[6:] == [4] * 5
    assert len(released) == layer.calls["release_cached"] == 1


def test_what_was_encoded_before_the_failure_is_kept() -> None:
    encode = Small(3)
    items = torch.arange(9).view(9, 1)
    rows = limit_of(HostLayer()).run(
        encode, items, lambda count, limit: [3, 6] if count == 9 else even(count, limit), 9
    )
    assert torch.equal(rows, items * 2.0)
    assert encode.tried == [3, 6, 3, 3]


def test_the_failed_batch_is_gone_before_the_next_try() -> None:
    encode = Small(2)
    alive_at_release: list[bool] = []
    memory = MemoryLimit(
        HostLayer(), lambda: alive_at_release.append(encode.activations[-1]() is not None)
    )
    gc.disable()  # the memory must be free without a collection
    try:
        memory.run(encode, torch.zeros(8, 1), even, 8)
    finally:
        gc.enable()
    assert alive_at_release == [False, False]
    assert encode.tried == [8, 4, 2, 2, 2, 2]


def test_one_item_that_does_not_fit_is_a_typed_error() -> None:
    memory = limit_of(HostLayer())
    with pytest.raises(DeviceMemoryError, match="cpu has too little free memory for one item"):
        memory.run(Small(0), torch.zeros(3, 1), even, 2)
    assert issubclass(DeviceMemoryError, MemoryError)


def test_other_errors_pass() -> None:
    def broken(_: torch.Tensor) -> torch.Tensor:
        raise ValueError("a kernel failed")

    memory = limit_of(HostLayer())
    with pytest.raises(ValueError, match="a kernel failed"):
        memory.run(broken, torch.zeros(3, 1), even, 2)
    assert memory.limit is None


# ---- with graphs and pipelines ------------------------------------------------------------------------------------


def images(layer: HostLayer, encode: Small, most: int = 16) -> DeviceImages:
    batching = Batching((), 1, 4, most)
    return DeviceImages(layer, encode, batching, (1,), 1, torch.float32, graphs=True)


def test_a_batch_that_does_not_fit_takes_the_graphs_memory_first() -> None:
    layer, encode = HostLayer(), Small(16)
    device = images(layer, encode)
    pixels = torch.arange(16, dtype=torch.uint8).view(16, 1)
    device.run(pixels[:2], False, None)
    assert device.describe()["graphs"] == [2]
    encode.room = 8
    assert torch.equal(device.run(pixels, False, None), pixels * 2.0)
    assert device.batch(None) == 8
    assert device.describe()["graphs"] == [8]
    device.run(pixels[:8], False, None)
    assert device.describe()["most images a batch"] == 8


@pytest.mark.parametrize("operation", ["host_buffer", "device_buffer"])
def test_a_pipeline_that_does_not_fit_is_made_smaller(operation: str) -> None:
    layer = HostLayer()
    device = images(layer, Small(16))
    layer.fail(operation, times=2)
    with device.pipeline(None) as pipeline:
        assert pipeline.batch == 4
    with device.pipeline(None) as again:
        assert again is pipeline
    with device.pipeline(2) as other:
        assert other.batch == 2
    assert device.batch(None) == 4


def interrupted(layer: HostLayer, device: DeviceImages) -> NoReturn:
    """A pipeline whose caller fails after a batch was put in."""
    with device.pipeline(4) as failed:
        pixels = failed.allocate(2).fill_(1)
        assert not list(failed.put(lambda part: device.run(part, False, None), [0, 1], pixels))
        assert layer.waiting > 0
        raise CallerError(failed)


class CallerError(Exception):
    """Holds the pipeline."""


def test_after_an_error_a_pipeline_is_finished_with_and_not_used_again() -> None:
    layer = HostLayer(lazy=("copy", "compute", "back"))
    device = images(layer, Small(16))
    with pytest.raises(CallerError) as raised:
        interrupted(layer, device)
    assert layer.waiting == 0
    with device.pipeline(4) as fresh:
        assert fresh is not raised.value.args[0]


def test_two_callers_have_two_pipelines_and_release_gives_them_back() -> None:
    layer = HostLayer()
    device = images(layer, Small(16))
    with device.pipeline(4) as one, device.pipeline(4) as two:
        assert one is not two
    held = layer.host_bytes
    del one, two
    device.release()
    gc.collect()
    assert held > 0
    assert (layer.host_bytes, layer.device_bytes) == (0, 0)
