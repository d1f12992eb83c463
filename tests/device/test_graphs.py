"""Graphs by bucket: captured when first used, padded, shared pool and input, given back; memory that is missing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from clipfast.device.graphs import Graphs
from clipfast.device.host import HostEvent, HostLayer, HostStream
from clipfast.device.layer import Graph

SHAPE = (2,)
BUCKETS = (1, 2, 4, 8)


def bucket(count: int) -> int:
    return next(size for size in BUCKETS if size >= count)


class Encoder:
    """Counts what it was given: graphs replay it, kernels launched one by one call it."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, pixels: torch.Tensor, normalize: bool) -> torch.Tensor:
        self.sizes.append(len(pixels))
        rows = pixels.float() * 2
        return rows / 1000 if normalize else rows


def graphs(layer: HostLayer, encoder: Encoder) -> Graphs:
    return Graphs(layer, encoder, bucket, SHAPE, BUCKETS[-1])


def pixels(count: int, start: int = 0) -> torch.Tensor:
    return torch.arange(start, start + 2 * count, dtype=torch.uint8).view(count, 2)


def test_every_size_is_its_own_rows_and_buckets_are_captured_once() -> None:
    layer, encoder = HostLayer(), Encoder()
    captured = graphs(layer, encoder)
    for count in (3, 4, 1, 3, 8, 4, 7):
        rows = captured.run(pixels(count, start=count), normalize=False)
        assert torch.equal(rows, pixels(count, start=count).float() * 2)
    assert captured.sizes == [1, 4, 8]
    assert layer.calls["capture"] == 3
    assert layer.calls["device_buffer"] == 1
    assert set(encoder.sizes) == {1, 4, 8}


def test_normalised_rows_have_graphs_of_their_own() -> None:
    layer = HostLayer()
    captured = graphs(layer, Encoder())
    for normalize in (True, False, True):
        rows = captured.run(pixels(2), normalize)
        assert torch.equal(rows, pixels(2).float() * 2 / (1000 if normalize else 1))
    assert layer.calls["capture"] == 2


def test_rows_stay_when_the_graph_runs_again() -> None:
    captured = graphs(HostLayer(), Encoder())
    first = captured.run(pixels(2), normalize=False)
    captured.run(pixels(2, start=50), normalize=False)
    assert torch.equal(first, pixels(2).float() * 2)


def test_each_run_waits_for_the_one_before_on_another_stream() -> None:
    waited: list[tuple[HostStream, HostStream]] = []

    class Watched(HostLayer):
        def wait(self, stream: HostStream, event: HostEvent) -> None:
            waited.append((stream, event.stream))
            super().wait(stream, event)

    layer = Watched(lazy=("one", "two"))
    captured, rows = graphs(layer, Encoder()), dict[str, torch.Tensor]()
    one, two = layer.stream("one"), layer.stream("two")

    def run(name: str, start: int) -> None:
        rows[name] = captured.run(pixels(2, start), normalize=False)

    layer.submit(one, lambda: run("one", 0))
    layer.submit(two, lambda: run("two", 50))
    layer.synchronize(layer.record(two))
    layer.synchronize(layer.record(one))
    assert waited == [(one, two)]
    assert torch.equal(rows["one"], pixels(2).float() * 2)
    assert torch.equal(rows["two"], pixels(2, 50).float() * 2)


def test_what_is_not_uint8_or_larger_than_every_bucket_has_no_graph() -> None:
    layer, encoder = HostLayer(), Encoder()
    captured = graphs(layer, encoder)
    captured.run(pixels(9), normalize=False)
    captured.run(pixels(2).float(), normalize=False)
    assert captured.run(pixels(0), normalize=False).shape == (0, 2)
    assert encoder.sizes == [9, 2, 0]
    assert layer.calls["capture"] == 0


def test_where_a_graph_does_not_fit_kernels_are_launched_and_smaller_graphs_remain_possible() -> (
    None
):
    layer, encoder = HostLayer(), Encoder()
    captured = graphs(layer, encoder)
    captured.run(pixels(2), normalize=False)
    layer.fail("capture")
    rows = captured.run(pixels(4), normalize=False)
    assert torch.equal(rows, pixels(4).float() * 2)
    assert captured.sizes == []  # its memory went to what was asked for
    captured.run(pixels(3), normalize=False)
    captured.run(pixels(2), normalize=False)
    assert captured.sizes == [2]
    assert layer.calls["capture"] == 3
    assert layer.calls["release_cached"] == 1


def test_the_shared_input_may_not_fit_either() -> None:
    layer = HostLayer()
    captured = graphs(layer, Encoder())
    layer.fail("device_buffer")
    assert torch.equal(captured.run(pixels(8), normalize=False), pixels(8).float() * 2)
    assert captured.sizes == []


def test_released_graphs_are_captured_again() -> None:
    layer = HostLayer()
    captured = graphs(layer, Encoder())
    captured.run(pixels(1), normalize=False)
    captured.release()
    assert (captured.sizes, layer.device_bytes) == ([], 0)
    assert torch.equal(captured.run(pixels(1), normalize=False), pixels(1).float() * 2)
    assert layer.calls["capture"] == 2


class Refusing(HostLayer):
    """Captures nothing, as a device does that another thread waits for."""

    def capture(self, work: Callable[[], torch.Tensor], pool: object) -> tuple[Graph, torch.Tensor]:
        self.calls["capture"] += 1
        raise RuntimeError("operation failed due to a previous error during capture")


def test_a_refused_capture_costs_no_row_is_logged_and_tried_once_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    layer = Refusing()
    captured = graphs(layer, Encoder())
    for start in range(4):
        rows = captured.run(pixels(3, start), normalize=False)
        assert torch.equal(rows, pixels(3, start).float() * 2)
    assert (captured.sizes, layer.calls["capture"], layer.device_bytes) == ([], 2, 0)
    assert [record.getMessage() for record in caplog.records] == [
        "cpu took no graph of 4: operation failed due to a previous error during capture"
    ] * 2


def test_errors_of_the_kernels_themselves_are_not_hidden() -> None:
    def broken(pixels: torch.Tensor, normalize: bool) -> torch.Tensor:
        raise RuntimeError("operation not permitted when stream is capturing")

    captured = Graphs(HostLayer(), broken, bucket, SHAPE, 8)
    with pytest.raises(RuntimeError, match="not permitted"):
        captured.run(pixels(1), normalize=False)
