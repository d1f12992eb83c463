"""Host batches through a device: right whatever runs early or late, wrong as soon as one wait is left out; bounded."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import pytest
import torch

from clipfast.device.host import HostEvent, HostLayer, HostStream
from clipfast.device.pipeline import Pipeline
from clipfast.device.ring import Ring

STREAMS = ("copy", "compute", "back")
ORDERS = [lazy for count in range(4) for lazy in combinations(STREAMS, count)]
BATCH, SHAPE = 4, (2, 3)


def numbered(start: int, count: int) -> torch.Tensor:
    """Images that hold their own position."""
    positions = torch.arange(start, start + count)
    return (positions[:, None, None] + torch.zeros(SHAPE)).to(torch.uint8)


def encode(pixels: torch.Tensor) -> torch.Tensor:
    """Two columns: the image's position, and its square."""
    position = pixels[:, 0, 0].float()
    return torch.stack([position, position.square()], dim=1)


def through(layer: HostLayer, sizes: list[int], *, own_buffers: bool = True) -> list[float]:
    """The first column of all rows, at their positions; NaN where the second does not belong to it."""
    pipeline = Pipeline(layer, BATCH, SHAPE, 2, torch.float32)
    rows = [float("nan")] * sum(sizes)

    def lay_down(found: Iterator[tuple[list[int], torch.Tensor]]) -> None:
        for indices, part in found:
            for index, (value, square) in zip(indices, part.tolist(), strict=True):
                rows[index] = value if square == value**2 else float("nan")

    start = 0
    for size in sizes:
        pixels = numbered(start, size)
        if own_buffers:
            pixels = pipeline.allocate(size).copy_(pixels)
        lay_down(pipeline.put(encode, [*range(start, start + size)], pixels))
        start += size
    lay_down(pipeline.finish())
    return rows


SIZES = [4, 4, 1, 0, 3, 4, 4, 2, 4, 4, 4, 1]


@pytest.mark.parametrize("lazy", ORDERS, ids="+".join)
@pytest.mark.parametrize("own_buffers", [True, False], ids=["ring", "staged"])
def test_every_row_is_its_image_whatever_runs_late(
    lazy: tuple[str, ...], own_buffers: bool
) -> None:
    rows = through(HostLayer(lazy=lazy), SIZES, own_buffers=own_buffers)
    assert rows == [float(position) for position in range(sum(SIZES))]


class Deaf(HostLayer):
    """Leaves one kind of wait out."""

    def __init__(self, waiting: str, other: str, lazy: tuple[str, ...]) -> None:
        super().__init__(lazy=lazy)
        self._deaf = (waiting, other)

    def wait(self, stream: HostStream, event: HostEvent) -> None:
        if (stream.name, event.stream.name) != self._deaf:
            super().wait(stream, event)

    def synchronize(self, event: HostEvent) -> None:
        if ("host", event.stream.name) != self._deaf:
            super().synchronize(event)


@pytest.mark.parametrize(
    ("waiting", "other", "lazy"),
    [
        ("compute", "copy", ("copy",)),  # computing on a buffer before it is filled
        ("copy", "compute", ("compute", "back")),  # filling a buffer that is still read
        (
            "host",
            "copy",
            ("copy", "compute", "back"),
        ),  # decoding into a buffer that is still copied
        ("host", "back", ("back",)),  # reading rows before they are back
    ],
)
def test_without_one_wait_rows_are_wrong(waiting: str, other: str, lazy: tuple[str, ...]) -> None:
    rows = through(Deaf(waiting, other, lazy), SIZES)
    assert rows != [float(position) for position in range(sum(SIZES))]


def test_rows_are_copied_back_after_they_are_computed() -> None:
    with pytest.raises(IndexError):
        through(Deaf("back", "compute", ("compute",)), SIZES)


@pytest.mark.parametrize("lazy", [(), STREAMS], ids="+".join)
def test_memory_does_not_grow_with_the_work(lazy: tuple[str, ...]) -> None:
    image = 6
    layer = HostLayer(lazy=lazy)
    through(layer, [BATCH] * 60)
    assert layer.most_host_bytes == 5 * BATCH * image + 3 * BATCH * 2 * 4
    assert layer.most_device_bytes == 2 * BATCH * image
    assert layer.calls["host_buffer"] == layer.calls["device_buffer"] == 2


def test_no_more_than_two_results_are_waited_for() -> None:
    layer = HostLayer()
    pipeline = Pipeline(layer, BATCH, SHAPE, 2, torch.float32)
    finished = [
        [indices for indices, _ in pipeline.put(encode, [number], numbered(number, 1))]
        for number in range(4)
    ]
    assert finished == [[], [], [[0]], [[1]]]
    assert [indices for indices, _ in pipeline.finish()] == [[2], [3]]


# ---- the ring ----------------------------------------------------------------------------------------------------


def ring(layer: HostLayer, slots: int = 3) -> Ring:
    return Ring(layer, slots, BATCH, SHAPE, torch.uint8)


def test_a_buffer_comes_back_when_its_event_has_happened() -> None:
    layer = HostLayer(lazy=("copy",))
    buffers, stream, seen = ring(layer, slots=2), layer.stream("copy"), list[str]()
    first, second = buffers.take(4), buffers.take(2)
    assert buffers.holds(first)
    layer.submit(stream, lambda: seen.append("copied"))
    buffers.give(first, layer.record(stream))
    assert not buffers.holds(first)
    buffers.give(second)
    assert buffers.take(1).data_ptr() == second.data_ptr()
    assert seen == []
    assert buffers.take(1).data_ptr() == first.data_ptr()
    assert seen == ["copied"]


def test_a_ring_whose_buffers_are_all_held_says_so() -> None:
    buffers = ring(HostLayer())
    for _ in range(3):
        buffers.take(1)
    with pytest.raises(AssertionError, match="the host holds all 3 buffers"):
        buffers.take(1)


def test_a_buffer_that_is_given_twice_is_an_error() -> None:
    buffers = ring(HostLayer())
    taken = buffers.take(0)
    assert buffers.holds(taken)
    buffers.give(taken)
    with pytest.raises(KeyError):
        buffers.give(taken)


def test_strangers_and_later_rows_are_not_held() -> None:
    buffers = ring(HostLayer())
    taken = buffers.take(4)
    assert not buffers.holds(taken[1:])
    assert not buffers.holds(torch.zeros(4, *SHAPE, dtype=torch.uint8))
