"""int8: the scales that calibration finds, the form that TensorRT imports, and what it costs in cosine."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from clipfast.checkpoint import Checkpoint
from clipfast.config import ModelConfig
from clipfast.export.onnx import export_onnx
from clipfast.export.parity import reference_rows
from clipfast.export.quantize import LEVELS, Calibration, QuantizedGraph, quantised_weights
from clipfast.export.samples import packaged_samples
from clipfast.export.smooth import smooth
from clipfast.parameters import Linear
from tests.export.graphs import random_checkpoint, random_parameters
from tests.tolerances import EXPORT_INT8_OUTLIERS_CENTRED
from tests.weights import random_weights, tiny, tiny_resnet


@pytest.mark.parametrize(
    ("config", "target"),
    [
        (tiny(), "onnxruntime"),
        pytest.param(tiny(), "tensorrt", marks=pytest.mark.slow),
        pytest.param(tiny_resnet(), "onnxruntime", marks=pytest.mark.slow),
        pytest.param(tiny_resnet(), "tensorrt", marks=pytest.mark.slow),
    ],
    ids=["vit", "vit-tensorrt", "resnet", "resnet-tensorrt"],
)
def test_int8_export_passes_its_gate(config, target, tmp_path: Path) -> None:
    report = export_onnx(random_checkpoint(config), tmp_path, dtype="int8", target=target)
    for tower in report.towers:
        print(config.name, tower.tower, target, tower.parity.cosine_min)
        assert tower.parity.cosine_min >= tower.parity.gate == 0.99
    graph = onnx.load(str(tmp_path / "image.onnx")).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    pairs = [n for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        zero = constants[node.input[2]]
        assert zero.data_type == TensorProto.INT8
        assert not numpy_helper.to_array(zero).any()
    float_type = TensorProto.FLOAT16 if target == "tensorrt" else TensorProto.FLOAT
    assert {constants[node.input[1]].data_type for node in pairs} == {float_type}
    stored = [t for t in constants.values() if t.data_type == TensorProto.INT8 and len(t.dims) > 1]
    assert len(stored) == len(list(quantised_image_weights(config)))


def quantised_image_weights(config: ModelConfig) -> list[str]:
    if config.name == "tiny":
        parts = ("query", "key", "value", "out_proj", "c_fc", "c_proj")
        return [f"{layer}.{part}" for layer in range(config.vision.layers) for part in parts]
    return ["conv2", "conv3"] + [f"{s}.{i}" for s in range(4) for i in (1, 2, 3, "downsample")]


def test_smoothing_is_exact_algebra() -> None:
    config = tiny()
    parameters = random_parameters(config)
    samples = packaged_samples().every_other(0)
    for tower in ("image", "text"):
        calibration = Calibration(parameters)
        before = reference_rows(tower, parameters, config, samples, calibration.ops)
        smoothed = smooth(parameters, calibration.channel_ranges)
        after = reference_rows(tower, smoothed, config, samples)
        assert torch.allclose(before, after, atol=2e-6)
        moved = smoothed.text if tower == "text" else smoothed.vision
        kept = parameters.text if tower == "text" else parameters.vision
        assert not torch.allclose(moved.blocks[0].qkv.weight, kept.blocks[0].qkv.weight)


def with_outliers(config: ModelConfig) -> dict[str, torch.Tensor]:
    """Random weights whose residual streams have four channels far above the others, which every norm turns down."""
    tensors = random_weights(config)
    spikes = torch.tensor([60.0, -45.0, 30.0, 80.0])
    channels = torch.tensor([3, 17, 40, 55])
    tensors["visual.ln_pre.bias"][channels] += spikes
    tensors["positional_embedding"][:, channels] += spikes
    norms = [
        f"{p}transformer.resblocks.{i}.ln_{n}"
        for p in ("visual.", "")
        for i in (0, 1)
        for n in (1, 2)
    ]
    for norm in (*norms, "visual.ln_post", "ln_final"):
        tensors[f"{norm}.weight"][channels] *= 0.02
    return tensors


@pytest.mark.slow
def test_outlier_channels_keep_their_neighbours(tmp_path: Path, monkeypatch) -> None:
    config = tiny()
    checkpoint = Checkpoint(config, with_outliers(config), "random")
    centred = {}
    for how in ("smoothed", "not"):
        report = export_onnx(checkpoint, tmp_path / how, dtype="int8")
        centred[how] = [tower.parity.centred for tower in report.towers]
        monkeypatch.setattr("clipfast.export.onnx.smooth", lambda parameters, ranges: parameters)
    print(centred)
    for with_smoothing, without in zip(centred["smoothed"], centred["not"], strict=True):
        assert with_smoothing > EXPORT_INT8_OUTLIERS_CENTRED
        assert 1 - with_smoothing < 0.2 * (1 - without)


def test_calibration_sees_every_quantised_layer() -> None:
    for config in (tiny(), tiny_resnet()):
        parameters = random_parameters(config)
        calibration = Calibration(parameters)
        samples = packaged_samples().every_other(0)
        for tower in ("image", "text"):
            reference_rows(tower, parameters, config, samples, calibration.ops)
        assert len(calibration.scales()) == len(list(quantised_weights(parameters)))


def test_the_scale_of_a_flat_range_is_its_end() -> None:
    parameters = random_parameters(tiny())
    calibration = Calibration(parameters)
    weight = parameters.text.blocks[0].c_fc.weight
    values = torch.linspace(-1, 1, 4096)[:, None].repeat(1, weight.shape[1])
    calibration.ops.linear(values, weight, None)
    (scale,) = calibration.scales().values()
    assert scale == pytest.approx(1 / LEVELS, rel=0.03)


def test_the_scale_has_less_error_than_the_maximum_would() -> None:
    parameters = random_parameters(tiny())
    calibration = Calibration(parameters)
    weight = parameters.text.blocks[0].c_fc.weight
    heavy = torch.randn(4096, weight.shape[1], generator=torch.manual_seed(0)) ** 3
    calibration.ops.linear(heavy, weight, None)
    (scale,) = calibration.scales().values()

    def error(step: float) -> float:
        rounded = (heavy / step).round().clamp(-LEVELS, LEVELS) * step
        return float((heavy - rounded).square().mean())

    largest = float(heavy.abs().max()) / LEVELS
    assert scale < largest
    assert error(scale) < error(largest)


def test_weights_are_rounded_to_their_channels_scale() -> None:
    weight = torch.tensor([[1.0, -0.5, 0.25], [100.0, 50.0, -25.0]])
    graph = QuantizedGraph("g", torch.float32, {weight.untyped_storage().data_ptr(): 0.1})
    graph.linear("x", Linear(weight), "layer")
    stored = graph.initializers["layer.weight"].tensor
    assert stored.dtype == torch.int8
    assert stored.T.tolist() == [[127, -64, 32], [127, 64, -32]]
    scales = graph.initializers["layer.weight.scale"].tensor
    assert torch.allclose(scales, torch.tensor([1 / 127, 100 / 127]))
    assert [node.op_type for node in graph.nodes] == [
        "DequantizeLinear",
        "QuantizeLinear",
        "DequantizeLinear",
        "MatMul",
    ]
