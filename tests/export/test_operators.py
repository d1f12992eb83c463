"""Our graphs pass TensorRT's table; graphs that TensorRT would refuse do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from clipfast.errors import OperatorError
from clipfast.export.operators import check_operators, find_violations
from tests.export.graphs import random_parameters, write_tower
from tests.weights import tiny, tiny_resnet

FLOAT, BF16, FP16 = TensorProto.FLOAT, TensorProto.BFLOAT16, TensorProto.FLOAT16


def model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list]],
    outputs: dict[str, tuple[int, list]],
    constants: dict[str, np.ndarray] | None = None,
    opset: int = 20,
) -> onnx.ModelProto:
    def values(described: dict) -> list:
        return [helper.make_tensor_value_info(name, *kind) for name, kind in described.items()]

    tensors = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", values(inputs), values(outputs), tensors)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def attention_with_four_outputs() -> onnx.ModelProto:
    shape = (FLOAT, ["b", 2, 4, 8])
    node = helper.make_node("Attention", ["q", "k", "v"], ["y", "", "", "s"], name="attn")
    scores = (FLOAT, ["b", 2, 4, 4])
    return model([node], {"q": shape, "k": shape, "v": shape}, {"y": shape, "s": scores}, opset=23)


def microsoft_operator() -> onnx.ModelProto:
    node = helper.make_node("QuickGelu", ["x"], ["y"], name="gelu", domain="com.microsoft")
    return model([node], {"x": (FLOAT, ["b", 4])}, {"y": (FLOAT, ["b", 4])})


def uint8_zero_point() -> onnx.ModelProto:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], name="dequantize"),
    ]
    constants = {"s": np.float32(0.1).reshape(()), "z": np.uint8(0).reshape(())}
    return model(nodes, {"x": (FLOAT, ["b", 4])}, {"y": (FLOAT, ["b", 4])}, constants)


def bfloat16_convolution(opset: int) -> onnx.ModelProto:
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv", kernel_shape=[1, 1])
    inputs = {"x": (BF16, ["b", 3, 4, 4]), "w": (BF16, [2, 3, 1, 1])}
    return model([node], inputs, {"y": (BF16, ["b", 2, 4, 4])}, opset=opset)


def axes_from_an_input() -> onnx.ModelProto:
    node = helper.make_node("ReduceL2", ["x", "axes"], ["y"], name="norm", keepdims=1)
    inputs = {"x": (FLOAT, ["b", 4]), "axes": (TensorProto.INT64, [1])}
    return model([node], inputs, {"y": (FLOAT, None)})


def missing_zero_point() -> onnx.ModelProto:
    nodes = [helper.make_node("QuantizeLinear", ["x", "s"], ["y"], name="quantize")]
    constants = {"s": np.float32(0.1).reshape(())}
    return model(nodes, {"x": (FLOAT, ["b", 4])}, {"y": (TensorProto.UINT8, ["b", 4])}, constants)


def unit_rows_in_bfloat16() -> onnx.ModelProto:
    node = helper.make_node("LpNormalization", ["x"], ["y"], name="unit", axis=-1, p=2)
    return model([node], {"x": (BF16, ["b", 4])}, {"y": (BF16, ["b", 4])}, opset=22)


def dynamic_quantisation() -> onnx.ModelProto:
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"], name="dynamic")
    outputs = {"y": (TensorProto.UINT8, ["b", 4]), "s": (FLOAT, []), "z": (TensorProto.UINT8, [])}
    return model([node], {"x": (FLOAT, ["b", 4])}, outputs)


def mixed_dtypes() -> onnx.ModelProto:
    node = helper.make_node("Add", ["x", "w"], ["y"], name="add")
    return model([node], {"x": (FP16, ["b", 4]), "w": (FLOAT, [4])}, {"y": (FP16, ["b", 4])})


def uint8_arithmetic() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["x"], ["c"], name="cast", to=TensorProto.UINT8),
        helper.make_node("Cast", ["c"], ["y"], name="back", to=FLOAT),
    ]
    return model(nodes, {"x": (FLOAT, ["b", 4])}, {"y": (FLOAT, ["b", 4])})


@pytest.mark.parametrize(
    ("broken", "node", "reason"),
    [
        (attention_with_four_outputs(), "attn", "4 outputs"),
        (attention_with_four_outputs(), "attn", "float32 has no fused kernel"),
        (microsoft_operator(), "gelu", "com.microsoft"),
        (uint8_zero_point(), "quantize", "zero point z must be an int8"),
        (bfloat16_convolution(20), "conv", "tensor(bfloat16), which Conv of opset 20"),
        (bfloat16_convolution(25), "model", "opset 25"),
        (axes_from_an_input(), "norm", "axes must be an initializer"),
        (missing_zero_point(), "quantize", "without a zero point"),
        (unit_rows_in_bfloat16(), "unit", "float32 and float16 only"),
        (dynamic_quantisation(), "dynamic", "no such operator"),
        (mixed_dtypes(), "add", "input w is FP32, another is FP16"),
        (uint8_arithmetic(), "cast", "only as the network's input or output"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_tensorrt_refuses_is_found(broken: onnx.ModelProto, node: str, reason: str) -> None:
    found = find_violations(broken)
    assert any(violation.node == node and reason in violation.reason for violation in found), found
    with pytest.raises(OperatorError, match="TensorRT cannot run it"):
        check_operators(broken, "broken.onnx")


def test_bfloat16_convolution_is_fine_from_opset_22() -> None:
    assert find_violations(bfloat16_convolution(22)) == []


@pytest.mark.parametrize("config", [tiny(), tiny_resnet()], ids=["vit", "resnet"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_our_graphs_pass(config, dtype, tmp_path: Path) -> None:
    parameters = random_parameters(config)
    for target in ("onnxruntime", "tensorrt"):
        path = write_tower(tmp_path, config, parameters, "image", dtype, target)
        assert find_violations(onnx.load(str(path))) == []
