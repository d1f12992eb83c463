"""Every node of a graph against TensorRT's table of ONNX operators: which it has, for which types, how restricted.

TensorRT types strongly: the precision of a node is the type of its tensors. So an export that parses here must name
types that both ONNX (at the graph's opset) and TensorRT accept, and use none of the forms its importer refuses.
Source: `tensorrt_operators.json` says which document; the restrictions below were met in NVIDIA's own parser.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, defs

from clipfast.errors import OperatorError

_NAMES: dict[int, str] = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8",
    TensorProto.BOOL: "BOOL",
    TensorProto.FLOAT8E4M3FN: "FP8",
}


@dataclass(frozen=True)
class Violation:
    """A node that TensorRT cannot run, and why."""

    node: str
    operator: str
    reason: str

    def __str__(self) -> str:
        return f"{self.node} ({self.operator}): {self.reason}"


def check_operators(model: ModelProto, where: str) -> None:
    """Raises OperatorError with every violation of the model; its weights need not be loaded."""
    violations = find_violations(model)
    if violations:
        shown = "; ".join(map(str, violations[:8]))
        more = f"; and {len(violations) - 8} more" if len(violations) > 8 else ""
        raise OperatorError(f"{where}: TensorRT cannot run it: {shown}{more}")


def find_violations(model: ModelProto) -> list[Violation]:
    """Every node that TensorRT's table or importer refuses.

    Raises:
        OperatorError: shapes and types cannot even be inferred.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise OperatorError(f"types and shapes are not consistent: {error}") from None
    tensors = _Tensors(inferred.graph)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    found = list(_check_opset(opsets.get("", 0)))
    for node in inferred.graph.node:
        reasons = _reasons(node, tensors, opsets.get("", 0))
        found += [Violation(node.name or node.output[0], node.op_type, why) for why in reasons]
    return found


class _Tensors:
    """Element types of all tensors, and which are graph inputs or outputs, or constants."""

    def __init__(self, graph: GraphProto) -> None:
        self.edges = {value.name for value in (*graph.input, *graph.output)}
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.types = {
            value.name: value.type.tensor_type.elem_type
            for value in (*graph.value_info, *graph.input, *graph.output)
        }
        self.types |= {name: tensor.data_type for name, tensor in self.constants.items()}


def _check_opset(opset: int) -> Iterator[Violation]:
    table = _table()
    if not table.smallest_opset <= opset <= table.largest_opset:
        supported = f"{table.smallest_opset} to {table.largest_opset}"
        yield Violation("model", "opset", f"opset {opset}, expected {supported}")


def _reasons(node: NodeProto, tensors: _Tensors, opset: int) -> Iterator[str]:
    if node.domain not in ("", "ai.onnx"):
        yield f"domain {node.domain!r} is not ONNX's own, export again with target tensorrt"
        return
    supported = _table().types.get(node.op_type)
    if supported is None:
        yield "no such operator in TensorRT"
        return
    schema = defs.get_schema(node.op_type, opset)
    yield from _type_reasons(node, schema, tensors, supported, opset)
    yield from _uint8_reasons(node, tensors)
    restriction = _RESTRICTIONS.get(node.op_type)
    if restriction is not None:
        yield from restriction(node, tensors)


def _type_reasons(
    node: NodeProto, schema: defs.OpSchema, tensors: _Tensors, supported: frozenset[str], opset: int
) -> Iterator[str]:
    allowed = {entry.type_param_str: entry.allowed_type_strs for entry in schema.type_constraints}
    bound: dict[str, int] = {}
    for position, name in enumerate(node.input):
        if name not in tensors.types:
            continue  # an optional input that is left out
        formal = schema.inputs[min(position, len(schema.inputs) - 1)]
        element = tensors.types[name]
        if bound.setdefault(formal.type_str, element) != element:
            yield f"input {name} is {_NAMES.get(element)}, another is {_NAMES.get(bound[formal.type_str])}"
        accepted = allowed.get(formal.type_str, [formal.type_str])
        spelled = f"tensor({TensorProto.DataType.Name(element).lower()})"
        if spelled not in accepted:
            yield f"input {name} is {spelled}, which {node.op_type} of opset {opset} does not take"
        elif formal.type_str == schema.inputs[0].type_str and _NAMES.get(element) not in supported:
            yield f"input {name} is {spelled}, TensorRT takes {', '.join(sorted(supported))}"


def _uint8_reasons(node: NodeProto, tensors: _Tensors) -> Iterator[str]:
    for name in (*node.input, *node.output):
        if tensors.types.get(name) == TensorProto.UINT8 and name not in tensors.edges:
            yield f"{name} is uint8, which TensorRT takes only as the network's input or output"


# ---- forms that the importer refuses -----------------------------------------------------------------------------


def _one_output(node: NodeProto, tensors: _Tensors) -> Iterator[str]:
    if len(node.output) != 1:
        yield f"{len(node.output)} outputs, TensorRT imports it with exactly one"


def _attention(node: NodeProto, tensors: _Tensors) -> Iterator[str]:
    yield from _one_output(node, tensors)
    if tensors.types.get(node.input[0]) == TensorProto.FLOAT:
        yield "float32 has no fused kernel, and ONNX cannot allow TensorRT to take it apart"
    if len([name for name in node.input[4:] if name]):
        yield "past keys and values are not imported"
    refused = {"softcap", "softmax_precision", "qk_matmul_output_mode"}
    for attribute in node.attribute:
        if attribute.name in refused:
            yield f"attribute {attribute.name} is not imported"


def _constant_axes(node: NodeProto, tensors: _Tensors) -> Iterator[str]:
    if len(node.input) > 1 and node.input[1] and node.input[1] not in tensors.constants:
        yield f"axes {node.input[1]} must be an initializer"


def _zero_point(node: NodeProto, tensors: _Tensors) -> Iterator[str]:
    if len(node.input) < 3:
        if node.op_type == "QuantizeLinear":
            yield "without a zero point its output is uint8; give an int8 zero point of 0"
        return
    constant = tensors.constants.get(node.input[2])
    if constant is None or constant.data_type not in (TensorProto.INT8, TensorProto.FLOAT8E4M3FN):
        yield f"zero point {node.input[2]} must be an int8 or float8 initializer"
    elif onnx.numpy_helper.to_array(constant).any():
        yield f"zero point {node.input[2]} must be 0"


def _resize(node: NodeProto, tensors: _Tensors) -> Iterator[str]:
    if any(attribute.name == "antialias" and attribute.i for attribute in node.attribute):
        yield "antialias is not supported"


def _no_bfloat16(node: NodeProto, tensors: _Tensors) -> Iterator[str]:
    if tensors.types.get(node.input[0]) == TensorProto.BFLOAT16:
        yield "its importer takes float32 and float16 only"


def _no_dilations(node: NodeProto, tensors: _Tensors) -> Iterator[str]:
    for attribute in node.attribute:
        if attribute.name == "dilations" and any(step != 1 for step in attribute.ints):
            yield f"dilations {list(attribute.ints)} must be 1"
    if node.op_type == "MaxPool":
        yield from _one_output(node, tensors)


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
_RESTRICTIONS: dict[str, Callable[[NodeProto, _Tensors], Iterator[str]]] = {
    "Attention": _attention,
    "AveragePool": _no_dilations,
    "DequantizeLinear": _zero_point,
    "LayerNormalization": _one_output,
    "LpNormalization": _no_bfloat16,
    "MaxPool": _no_dilations,
    "QuantizeLinear": _zero_point,
    "Resize": _resize,
    "Squeeze": _constant_axes,
    "Unsqueeze": _constant_axes,
    **{f"Reduce{name}": _constant_axes for name in _REDUCTIONS},
}


@dataclass(frozen=True)
class _Table:
    """tensorrt_operators.json. types: operator -> names of the types that TensorRT takes."""

    smallest_opset: int
    largest_opset: int
    types: dict[str, frozenset[str]]


@cache
def _table() -> _Table:
    text = resources.files("clipfast.export").joinpath("tensorrt_operators.json").read_text()
    stored = json.loads(text)
    types = {
        operator: frozenset(names.split())
        for names, operators in stored["operators_by_types"].items()
        for operator in operators.split()
    }
    return _Table(stored["smallest_opset"], stored["largest_opset"], types)
