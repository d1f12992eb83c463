"""The profile of operations accounts for a batch's time."""

from __future__ import annotations

import clipfast
from benchmarks.op_profile import profile


def test_operations_are_counted_and_within_the_whole() -> None:
    model = clipfast.load("demo", precision="fp32")
    total, operations = profile(model, 2)
    layers = model.config.vision.layers
    calls = {label.split()[0]: 0.0 for label in operations}
    for label, (count, _) in operations.items():
        calls[label.split()[0]] += count
    assert calls["attention"] == layers - 1
    assert calls["attention_pool"] == calls["patch_embed"] == 1
    # qkv, out_proj, c_fc and c_proj of every block; the last one has its query apart; the projection.
    assert calls["linear"] == 4 * layers + 2
    assert 0 < sum(count * seconds for count, seconds in operations.values()) < 2 * total
    assert "timed" not in repr(model._encoder.ops.linear), "the model is as it was"
