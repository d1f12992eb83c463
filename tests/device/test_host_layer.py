"""The host's device layer: streams that run early or late, events, graphs over fixed memory, failures on demand."""

from __future__ import annotations

import gc

import pytest
import torch

from clipfast.device import HostLayer, HostMemoryError


def test_eager_streams_run_at_once_and_lazy_ones_when_waited_for() -> None:
    layer = HostLayer(lazy=("late",))
    seen: list[str] = []
    early, late = layer.stream("early"), layer.stream("late")
    layer.submit(late, lambda: seen.append("late"))
    layer.submit(early, lambda: seen.append("early"))
    assert seen == ["early"]
    layer.synchronize(layer.record(late))
    assert seen == ["early", "late"]


def test_an_event_covers_what_was_submitted_before_it_alone() -> None:
    layer = HostLayer(lazy=("late",))
    stream, seen = layer.stream("late"), list[int]()
    layer.submit(stream, lambda: seen.append(1))
    event = layer.record(stream)
    layer.submit(stream, lambda: seen.append(2))
    layer.synchronize(event)
    assert seen == [1]
    layer.synchronize(event)
    assert seen == [1]


def test_a_stream_that_waits_runs_the_other_one_first() -> None:
    layer = HostLayer(lazy=("first", "second"))
    first, second, seen = layer.stream("first"), layer.stream("second"), list[int]()
    layer.submit(first, lambda: seen.append(1))
    layer.wait(second, layer.record(first))
    layer.submit(second, lambda: seen.append(2))
    layer.submit(first, lambda: seen.append(3))
    layer.synchronize(layer.record(second))
    assert seen == [1, 2]


def test_work_sees_its_stream_as_the_current_one_and_may_record_on_it() -> None:
    layer = HostLayer(lazy=("side",))
    side, events = layer.stream("side"), list[object]()

    def work() -> None:
        assert layer.current_stream() is side
        events.append(layer.record(layer.current_stream()))

    layer.submit(side, work)
    layer.synchronize(layer.record(side))
    layer.synchronize(events[0])  # type: ignore[arg-type]  # it has happened
    assert layer.current_stream() is not side


def test_graphs_read_and_write_the_memory_they_were_captured_with() -> None:
    layer = HostLayer()
    source = layer.device_buffer((3,), torch.float32)
    graph, result = layer.capture(lambda: source + 1, layer.graph_pool())
    source.copy_(torch.tensor([1.0, 2.0, 3.0]))
    assert result.tolist() == [1.0, 1.0, 1.0]
    graph.replay()
    assert result.tolist() == [2.0, 3.0, 4.0]


def test_memory_is_counted_while_it_lives() -> None:
    layer = HostLayer()
    pinned = layer.host_buffer((10,), torch.uint8)
    layer.device_buffer((7,), torch.float32)
    gc.collect()
    assert (layer.host_bytes, layer.device_bytes, layer.most_device_bytes) == (10, 0, 28)
    del pinned
    gc.collect()
    assert (layer.host_bytes, layer.most_host_bytes) == (0, 10)


@pytest.mark.parametrize("operation", ["host_buffer", "device_buffer", "submit", "capture"])
def test_fails_when_told(operation: str) -> None:
    layer = HostLayer()
    calls = {
        "host_buffer": lambda: layer.host_buffer((1,), torch.uint8),
        "device_buffer": lambda: layer.device_buffer((1,), torch.uint8),
        "submit": lambda: layer.submit(layer.stream("any"), lambda: None),
        "capture": lambda: layer.capture(lambda: torch.zeros(1), layer.graph_pool()),
    }
    layer.fail(operation, times=2)
    for _ in range(2):
        with pytest.raises(HostMemoryError, match=f"told to fail: {operation}"):
            calls[operation]()
    calls[operation]()
    assert layer.calls[operation] == 3
