"""An ONNX graph under construction: named nodes, weights that stay torch tensors until they are written.

Every node, its output and its weights carry the name of the part of CLIP that they compute ("resblocks.3/c_fc"), so
that a parser error or an engine's layer list says where it is. A node is added after the nodes that it reads, and names
are unique, so the same parameters give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper

from clipfast.errors import UnsupportedError
from clipfast.parameters import Convolution, LayerNorm, Linear, Tensor

ELEMENT_TYPES: dict[torch.dtype, int] = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
    torch.int8: TensorProto.INT8,
    torch.int32: TensorProto.INT32,
    torch.int64: TensorProto.INT64,
}


@dataclass(frozen=True)
class Initializer:
    """A constant of the graph. tensor: any strides; it is made contiguous when it is written."""

    name: str
    tensor: Tensor
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return self.tensor.numel() * self.dtype.itemsize

    def to_bytes(self) -> bytes:
        """Little-endian rows, as ONNX stores them."""
        stored = self.tensor.to(self.dtype).contiguous().reshape(-1)
        return stored.view(torch.uint8).numpy().tobytes()


class Graph:
    """Nodes in the order they compute.

    Args:
        name: of the graph.
        dtype: of matrices, activations and attention.
        layer_norm_fp32: compute LayerNorm in float32 between casts, whatever `dtype` is.
        whole_attention: let the last block attend from every row, although one is pooled: TensorRT fuses attention
            over all rows into one kernel and attention from a single row not.
    """

    def __init__(
        self,
        name: str,
        dtype: torch.dtype,
        *,
        layer_norm_fp32: bool = True,
        whole_attention: bool = False,
    ) -> None:
        self.name = name
        self.whole_attention = whole_attention
        self.dtype = dtype
        self.norm_dtype = torch.float32 if layer_norm_fp32 else dtype
        self.nodes: list[NodeProto] = []
        self.inputs: list[ValueInfoProto] = []
        self.outputs: list[ValueInfoProto] = []
        self.initializers: dict[str, Initializer] = {}
        self._made: set[str] = set()

    # ---- building blocks -------------------------------------------------------------------------------------

    def input(self, name: str, element_type: int, row_shape: Sequence[int]) -> str:
        """A graph input (batch, *row_shape); the batch alone is dynamic."""
        self.inputs.append(helper.make_tensor_value_info(name, element_type, ["batch", *row_shape]))
        return name

    def output(self, name: str, row_shape: Sequence[int]) -> None:
        """Declares a float32 graph output (batch, *row_shape)."""
        self.outputs.append(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *row_shape])
        )

    def node(self, operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Adds a node with one output, named as the node is; returns that name."""
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, tensor: Tensor, dtype: torch.dtype | None = None) -> str:
        """An initializer in `dtype` (the graph's when None); one name is one constant."""
        if name in self.initializers:
            assert self.initializers[name].tensor.shape == tensor.shape, name
            return name
        dtype = dtype or self.dtype
        if tensor.is_floating_point() and dtype == torch.float16:
            _check_fits_float16(name, tensor)
        self.initializers[name] = Initializer(name, tensor, dtype)
        return name

    def integers(self, *values: int) -> str:
        """A shared int64 constant: shapes and axes."""
        name = "int64_" + "_".join(str(value).replace("-", "m") for value in values)
        return self.constant(name, torch.tensor(values, dtype=torch.int64), torch.int64)

    # ---- operations ------------------------------------------------------------------------------------------

    def add(self, x: str, y: str, name: str) -> str:
        return self.node("Add", [x, y], name)

    def cast(self, x: str, dtype: torch.dtype, name: str) -> str:
        return self.node("Cast", [x], name, to=ELEMENT_TYPES[dtype])

    def reshape(self, x: str, shape: Sequence[int], name: str) -> str:
        """A leading 0 keeps the batch."""
        return self.node("Reshape", [x, self.integers(*shape)], name)

    def transpose(self, x: str, order: Sequence[int], name: str) -> str:
        return self.node("Transpose", [x], name, perm=list(order))

    def linear(self, x: str, p: Linear, name: str) -> str:
        """x @ weight^T + bias; a bias that is zero everywhere is left out."""
        product = self.matmul(x, p.weight, name)
        if p.bias is None or not bool(p.bias.any()):
            return product
        return self.add(product, self.constant(f"{name}.bias", p.bias), f"{name}/bias")

    def matmul(self, x: str, weight: Tensor, name: str) -> str:
        """x @ weight^T. weight: (N, K)."""
        return self.node("MatMul", [x, self.constant(f"{name}.weight", weight.T)], f"{name}/matmul")

    def convolution(
        self, x: str, p: Convolution, name: str, *, stride: int = 1, padding: int = 0
    ) -> str:
        weight = self.constant(f"{name}.weight", p.weight)
        bias = self.constant(f"{name}.bias", p.bias)
        return self.convolution_node(x, weight, bias, p.weight.shape[-1], name, stride, padding)

    def convolution_node(
        self, x: str, weight: str, bias: str, size: int, name: str, stride: int, padding: int
    ) -> str:
        return self.node(
            "Conv",
            [x, weight, bias],
            f"{name}/conv",
            kernel_shape=[size, size],
            strides=[stride, stride],
            pads=[padding] * 4,
        )

    def layer_norm(self, x: str, p: LayerNorm, width: int, name: str) -> str:
        """In and out in the graph's dtype; a folded norm has scale one and no shift."""
        dtype = self.norm_dtype
        if dtype != self.dtype:
            x = self.cast(x, dtype, f"{name}/widen")
        if p.weight is None or p.bias is None:
            inputs = [x, self.constant(f"ones_{width}", torch.ones(width), dtype)]
        else:
            inputs = [
                x,
                self.constant(f"{name}.weight", p.weight, dtype),
                self.constant(f"{name}.bias", p.bias, dtype),
            ]
        y = self.node("LayerNormalization", inputs, f"{name}/norm", axis=-1, epsilon=p.eps)
        return y if dtype == self.dtype else self.cast(y, self.dtype, f"{name}/narrow")

    def activate(self, x: str, activation: str, name: str) -> str:
        match activation:
            case "gelu":
                return self.node("Gelu", [x], f"{name}/gelu")
            case "silu":
                gate = self.node("Sigmoid", [x], f"{name}/sigmoid")
                return self.node("Mul", [x, gate], f"{name}/silu")
            case "relu":
                return self.node("Relu", [x], f"{name}/relu")
        raise ValueError(f"unknown activation {activation!r}")

    # ---- the end ---------------------------------------------------------------------------------------------

    def describe(self) -> str:
        """One sentence for whoever opens the file: what goes in and what comes out."""
        ends = (
            ", ".join(f"{value.name} {_shape(value)}" for value in values)
            for values in (self.inputs, self.outputs)
        )
        return f"{self.name}: {' -> '.join(ends)}, rows of unit length"

    def to_proto(self, tensors: Sequence[TensorProto]) -> GraphProto:
        """The graph with these initializers (`onnx_file` decides where their bytes are)."""
        return helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, list(tensors))


def _shape(value: ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    sizes = ", ".join(str(size.dim_param or size.dim_value) for size in tensor.shape.dim)
    return f"({sizes}) {TensorProto.DataType.Name(tensor.elem_type).lower()}"


def _check_fits_float16(name: str, tensor: Tensor) -> None:
    smallest, largest = (float(end) for end in torch.aminmax(tensor))
    largest = max(-smallest, largest)
    if largest > torch.finfo(torch.float16).max:
        raise UnsupportedError(
            f"{name} holds {largest:.3g}, beyond float16's 65504; export with dtype bf16 or fp32"
        )
