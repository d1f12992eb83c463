"""int8 exports: static symmetric quantisation of the blocks' matrices and of what they multiply, as Q/DQ pairs.

    x ~ s_x round(x / s_x),  one s_x a tensor, from calibration;    W ~ s_n round(W_n / s_n),  one s_n an output feature

Both signed with zero points of 0, the only form that TensorRT imports. Quantised are the linears of the transformer
blocks and the convolutions after a ResNet's first. The pixels' first layer, attention pooling and the projection into
the shared space stay in the graph's dtype: a few percent of the work, and the rows that everything is judged by.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from clipfast.backends.reference import REFERENCE
from clipfast.export.graph import Graph
from clipfast.ops import Ops
from clipfast.parameters import Convolution, Parameters, ResNet, Tensor

LEVELS = 127  # -128 is left out: symmetric
RECIPE = "static QDQ, int8 symmetric, per-tensor activations (least squares), per-channel weights"

# Values kept a call to choose a scale by least squares, and the clipping points tried, as fractions of the maximum.
_SAMPLE = 1 << 14
_CLIPS = [step / 40 for step in range(8, 41)]


class Calibration:
    """What the quantised layers read, watched while the reference towers encode calibration inputs.

    `ops` is the reference backend, listening; `channel_ranges` is what `smooth` reads. Layers are known by the storage
    of their weights, which the wiring hands to every operation, whole or in views.
    """

    def __init__(self, parameters: Parameters) -> None:
        self.channel_ranges: dict[int, Tensor] = {}
        self._samples: dict[int, list[Tensor]] = {
            _storage(weight): [] for weight in quantised_weights(parameters)
        }
        self.ops: Ops = replace(
            REFERENCE,
            name="calibration",
            linear=self._linear,
            convolution=self._convolution,
        )

    def scales(self) -> dict[int, float]:
        """Storage of each quantised weight -> the scale of what it multiplies."""
        return {key: _least_squares_scale(seen) for key, seen in self._samples.items() if seen}

    def _watch(self, weight: Tensor, x: Tensor) -> None:
        seen = self._samples.get(_storage(weight))
        if seen is None:
            return
        flat = x.detach().reshape(-1)
        kept = flat[:: flat.numel() // _SAMPLE | 1]  # an odd step meets every channel
        extremes = torch.stack([flat.min(), flat.max()])  # a sample alone would miss them
        seen.append(torch.cat([extremes, kept]))

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, **options: Any) -> Any:
        self._watch(weight, x)
        if _storage(weight) in self._samples:
            largest = x.detach().abs().amax(dim=0)
            before = self.channel_ranges.get(_storage(weight), largest)
            self.channel_ranges[_storage(weight)] = torch.maximum(before, largest)
        return REFERENCE.linear(x, weight, bias, **options)

    def _convolution(self, x: Tensor, weight: Tensor, bias: Tensor, **options: Any) -> Tensor:
        self._watch(weight, x)
        return REFERENCE.convolution(x, weight, bias, **options)


def quantised_weights(parameters: Parameters) -> Iterable[Tensor]:
    """The matrices and kernels that an int8 export stores as int8."""
    towers = [parameters.text.blocks]
    vision = parameters.vision
    if isinstance(vision, ResNet):
        yield from (vision.stem.conv2.weight, vision.stem.conv3.weight)
        for bottleneck in (bottleneck for stage in vision.stages for bottleneck in stage):
            yield from (bottleneck.conv1.weight, bottleneck.conv2.weight, bottleneck.conv3.weight)
            if bottleneck.downsample is not None:
                yield bottleneck.downsample.weight
    else:
        towers.append(vision.blocks)
    for block in (block for blocks in towers for block in blocks):
        for linear in (block.qkv, block.out_proj, block.c_fc, block.c_proj):
            yield linear.weight


class QuantizedGraph(Graph):
    """A graph whose calibrated layers multiply int8 by int8. scales: of `Calibration`."""

    def __init__(
        self,
        name: str,
        dtype: torch.dtype,
        scales: dict[int, float],
        *,
        layer_norm_fp32: bool = True,
        whole_attention: bool = False,
    ) -> None:
        super().__init__(
            name, dtype, layer_norm_fp32=layer_norm_fp32, whole_attention=whole_attention
        )
        self._scales = scales

    def matmul(self, x: str, weight: Tensor, name: str) -> str:
        scale = self._scales.get(_storage(weight))
        if scale is None:
            return super().matmul(x, weight, name)
        stored = self._dequantized_weight(weight, f"{name}.weight", transpose=True)
        return self.node("MatMul", [self._quantized(x, scale), stored], f"{name}/matmul")

    def convolution(
        self, x: str, p: Convolution, name: str, *, stride: int = 1, padding: int = 0
    ) -> str:
        scale = self._scales.get(_storage(p.weight))
        if scale is None:
            return super().convolution(x, p, name, stride=stride, padding=padding)
        stored = self._dequantized_weight(p.weight, f"{name}.weight", transpose=False)
        bias = self.constant(f"{name}.bias", p.bias)
        return self.convolution_node(
            self._quantized(x, scale), stored, bias, p.weight.shape[-1], name, stride, padding
        )

    def _quantized(self, x: str, scale: float) -> str:
        """x rounded to int8 and back; layers that read the same tensor by the same scale share it."""
        name = f"{x}/q_{scale:.6g}"
        if name not in self._made:
            self._made.add(name)
            step = self.constant(f"{name}.scale", torch.tensor(scale))
            zero = self.constant("int8_zero", torch.tensor(0), torch.int8)
            self.node("QuantizeLinear", [x, step, zero], f"{name}/int8")
            self.node("DequantizeLinear", [f"{name}/int8", step, zero], name)
        return name

    def _dequantized_weight(self, weight: Tensor, name: str, *, transpose: bool) -> str:
        """The int8 initializer and the node that scales it back. weight: (N, ...)."""
        rows = weight.flatten(1)
        step = (rows.abs().amax(dim=1) / LEVELS).clamp(min=torch.finfo(torch.float16).tiny)
        shape = (-1, *[1] * (weight.dim() - 1))
        stored = (weight / step.view(shape)).round().clamp(-LEVELS, LEVELS).to(torch.int8)
        inputs = [
            self.constant(name, stored.T if transpose else stored, torch.int8),
            self.constant(f"{name}.scale", step),
            self.constant(f"int8_zero_{len(step)}", torch.zeros(len(step)), torch.int8),
        ]
        axis = 1 if transpose else 0
        return self.node("DequantizeLinear", inputs, f"{name}/dequantized", axis=axis)


def _least_squares_scale(seen: list[Tensor]) -> float:
    """The step of 8-bit rounding with the least squared error over what was seen, clipping included."""
    values = torch.cat(seen).float()
    largest = float(values.abs().max())
    if largest == 0:
        return 1.0

    def error(clip: float) -> float:
        step = clip * largest / LEVELS
        rounded = (values / step).round().clamp(-LEVELS, LEVELS) * step
        return float((values - rounded).square().mean())

    return min(_CLIPS, key=error) * largest / LEVELS


def _storage(weight: Tensor) -> int:
    return weight.untyped_storage().data_ptr()
