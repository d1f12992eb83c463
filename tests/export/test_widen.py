"""The float32 twin of a bfloat16 graph holds exactly the rounded weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, numpy_helper

from clipfast.backends.reference import REFERENCE
from clipfast.export.widen import write_float32_twin
from clipfast.model import encode_vision
from clipfast.parameters import map_tensors
from clipfast.runtimes.onnxruntime import OnnxTower
from tests.export.graphs import random_parameters, write_tower
from tests.weights import tiny


def test_twin_equals_the_tower_with_rounded_weights(tmp_path: Path) -> None:
    config = tiny()
    parameters = random_parameters(config)
    path = write_tower(tmp_path, config, parameters, "image", "bf16", pixels="float")
    twin = write_float32_twin(path, tmp_path / "twin.onnx")
    onnx.checker.check_model(str(twin), full_check=True)
    exact = parameters.vision
    rounded = map_tensors(exact, lambda tensor: tensor.bfloat16().float())
    rounded = replace(
        rounded, ln_pre=exact.ln_pre, ln_post=exact.ln_post
    )  # float32 in the graph too
    cpu = torch.device("cpu")
    rows = torch.randn(4, 3, 64, 64, generator=torch.manual_seed(0))
    got = OnnxTower(twin, cpu)(rows)
    expected, unrounded = (
        F.normalize(encode_vision(vision, config.vision, REFERENCE, rows))
        for vision in (rounded, exact)
    )
    assert torch.allclose(got, expected, atol=2e-6)
    assert not torch.allclose(got, unrounded, atol=2e-4)


def test_every_bfloat16_constant_is_widened_exactly(tmp_path: Path) -> None:
    config = tiny()
    path = write_tower(tmp_path, config, random_parameters(config), "text", "bf16")
    twin = onnx.load(str(write_float32_twin(path, tmp_path / "twin.onnx")))
    original = {tensor.name: tensor for tensor in onnx.load(str(path)).graph.initializer}
    narrow = 0
    for tensor in twin.graph.initializer:
        assert tensor.data_type != TensorProto.BFLOAT16
        before = original[tensor.name]
        if before.data_type == TensorProto.BFLOAT16:
            narrow += 1
            as_float = numpy_helper.to_array(before).astype("float32")
            assert (as_float == numpy_helper.to_array(tensor)).all()
    assert narrow > 10
