"""Towers as plain torch programs write them, for torch to run eagerly and to compile: nothing folded, nothing pruned.

The forward passes of openai/CLIP with scaled_dot_product_attention, on canonical weights, in one dtype. With fp8 the
linear layers of the blocks are `torch._scaled_mm` with a scale for each row and for each output feature, which is what
torchao's row-wise dynamic quantisation compiles to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

from clipfast.config import (
    Activation,
    ModelConfig,
    ResNetConfig,
    TextConfig,
    VisionTransformerConfig,
)

Tensor = torch.Tensor
FP8 = torch.float8_e4m3fn
_LARGEST = 448.0


class Layer(torch.nn.Module):
    """x @ weight^T + bias."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class ScaledLayer(torch.nn.Module):
    """The same in 8-bit floats: rows quantised as they come."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        scale = weight.float().abs().amax(dim=1, keepdim=True) / _LARGEST
        self.register_buffer("weight", (weight.float() / scale).to(FP8))
        self.register_buffer("scale", scale.T.contiguous())
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        scale = rows.abs().amax(dim=1, keepdim=True).float().clamp_min(1e-12) / _LARGEST
        values = (rows.float() / scale).to(FP8)
        y = torch._scaled_mm(  # noqa: SLF001
            values,
            self.weight.t(),
            scale_a=scale,
            scale_b=self.scale,
            bias=self.bias,
            out_dtype=x.dtype,
            use_fast_accum=True,
        )
        return y.unflatten(0, x.shape[:-1])


Make = Callable[[Tensor, Tensor | None], torch.nn.Module]


class Block(torch.nn.Module):
    """One pre-norm block."""

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        name: str,
        config: VisionTransformerConfig | TextConfig,
        make: Make,
        *,
        causal: bool,
    ) -> None:
        super().__init__()
        self.heads, self.causal = config.heads, causal
        self.eps, self.activation = config.layer_norm_eps, config.activation
        self.norms = torch.nn.ParameterList(
            torch.nn.Parameter(weights[f"{name}.{norm}.{part}"], requires_grad=False)
            for norm in ("ln_1", "ln_2")
            for part in ("weight", "bias")
        )
        self.in_proj = make(
            weights[f"{name}.attn.in_proj_weight"], weights[f"{name}.attn.in_proj_bias"]
        )
        self.out_proj, self.c_fc, self.c_proj = (
            make(weights[f"{name}.{layer}.weight"], weights[f"{name}.{layer}.bias"])
            for layer in ("attn.out_proj", "mlp.c_fc", "mlp.c_proj")
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        y = F.layer_norm(x, (width,), self.norms[0], self.norms[1], self.eps)
        qkv = self.in_proj(y).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], is_causal=self.causal)
        x = x + self.out_proj(y.transpose(1, 2).flatten(2))
        y = F.layer_norm(x, (width,), self.norms[2], self.norms[3], self.eps)
        return x + self.c_proj(_activate(self.c_fc(y), self.activation))


class VisionTower(torch.nn.Module):
    """(B, 3, R, R) normalised pixels in the weights' dtype -> (B, E) unit rows."""

    def __init__(
        self, weights: Mapping[str, Tensor], config: ModelConfig, make: Make = Layer
    ) -> None:
        super().__init__()
        vision = config.vision
        assert isinstance(vision, VisionTransformerConfig)
        self.patch, self.eps = vision.patch_size, vision.layer_norm_eps
        for name in ("conv1.weight", "class_embedding", "positional_embedding", "proj"):
            self.register_buffer(name.replace(".", "_"), weights[f"visual.{name}"])
        for name in ("ln_pre", "ln_post"):
            for part in ("weight", "bias"):
                self.register_buffer(f"{name}_{part}", weights[f"visual.{name}.{part}"])
        self.blocks = torch.nn.ModuleList(
            Block(weights, f"visual.transformer.resblocks.{i}", vision, make, causal=False)
            for i in range(vision.layers)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        x = F.conv2d(pixels, self.conv1_weight, stride=self.patch).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(x), 1, -1)
        x = torch.cat([first, x], dim=1) + self.positional_embedding
        x = F.layer_norm(x, x.shape[-1:], self.ln_pre_weight, self.ln_pre_bias, self.eps)
        for block in self.blocks:
            x = block(x)
        y = F.layer_norm(x[:, 0], x.shape[-1:], self.ln_post_weight, self.ln_post_bias, self.eps)
        return F.normalize((y @ self.proj).float(), dim=-1)


class Convolution(torch.nn.Module):
    """A convolution without bias, then BatchNorm with its running statistics."""

    def __init__(
        self, weights: Mapping[str, Tensor], convolution: str, norm: str, stride: int = 1
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weights[f"{convolution}.weight"])
        for part in ("running_mean", "running_var", "weight", "bias"):
            self.register_buffer(f"norm_{part}", weights[f"{norm}.{part}"])
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        padding = self.weight.shape[-1] // 2
        x = F.conv2d(x, self.weight, stride=self.stride, padding=padding)
        statistics = (self.norm_running_mean, self.norm_running_var)
        return F.batch_norm(x, *statistics, self.norm_weight, self.norm_bias, eps=1e-5)


class Bottleneck(torch.nn.Module):
    """Three convolutions beside a shortcut; strides are average pools."""

    def __init__(self, weights: Mapping[str, Tensor], name: str, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.convolutions = torch.nn.ModuleList(
            Convolution(weights, f"{name}.conv{i}", f"{name}.bn{i}") for i in (1, 2, 3)
        )
        shortcut = f"{name}.downsample"
        self.downsample = (
            Convolution(weights, f"{shortcut}.0", f"{shortcut}.1")
            if f"{shortcut}.0.weight" in weights
            else torch.nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = self.convolutions
        y = F.relu(second(F.relu(first(x))))
        if self.stride > 1:
            x, y = F.avg_pool2d(x, self.stride), F.avg_pool2d(y, self.stride)
        return F.relu(third(y) + self.downsample(x))


class ResNetTower(torch.nn.Module):
    """(B, 3, R, R) normalised pixels in the weights' dtype -> (B, E) unit rows, of CLIP's modified ResNet."""

    def __init__(self, weights: Mapping[str, Tensor], config: ModelConfig) -> None:
        super().__init__()
        vision = config.vision
        assert isinstance(vision, ResNetConfig)
        self.heads = vision.heads
        self.stem = torch.nn.ModuleList(
            Convolution(weights, f"visual.conv{i}", f"visual.bn{i}", stride=2 if i == 1 else 1)
            for i in (1, 2, 3)
        )
        self.blocks = torch.nn.Sequential(
            *(
                Bottleneck(
                    weights, f"visual.layer{stage}.{i}", stride=2 if stage > 1 and i == 0 else 1
                )
                for stage, count in enumerate(vision.blocks, start=1)
                for i in range(count)
            )
        )
        pool = "visual.attnpool"
        self.register_buffer("positions", weights[f"{pool}.positional_embedding"])
        self.q, self.k, self.v, self.c = (
            Layer(weights[f"{pool}.{part}_proj.weight"], weights[f"{pool}.{part}_proj.bias"])
            for part in "qkvc"
        )

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels
        for convolution in self.stem:
            x = F.relu(convolution(x))
        x = self.blocks(F.avg_pool2d(x, 2)).flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + self.positions
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.q(x[:, :1]), self.k(x), self.v(x))
        )
        pooled = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(1)
        return F.normalize(self.c(pooled).float(), dim=-1)


class TextTower(torch.nn.Module):
    """(B, L) int64 ids, padded -> (B, E) unit rows of the row with the largest id, which is EOT."""

    def __init__(
        self, weights: Mapping[str, Tensor], config: ModelConfig, make: Make = Layer
    ) -> None:
        super().__init__()
        text = config.text
        self.eps = text.layer_norm_eps
        for name in ("token_embedding.weight", "positional_embedding", "text_projection"):
            self.register_buffer(name.replace(".", "_"), weights[name])
        for part in ("weight", "bias"):
            self.register_buffer(f"ln_final_{part}", weights[f"ln_final.{part}"])
        self.blocks = torch.nn.ModuleList(
            Block(weights, f"transformer.resblocks.{i}", text, make, causal=True)
            for i in range(text.layers)
        )

    def forward(self, ids: Tensor) -> Tensor:
        x = F.embedding(ids, self.token_embedding_weight)
        x = x + self.positional_embedding[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        pooled = x[torch.arange(len(ids), device=ids.device), ids.argmax(dim=1)]
        y = F.layer_norm(pooled, x.shape[-1:], self.ln_final_weight, self.ln_final_bias, self.eps)
        return F.normalize((y @ self.text_projection).float(), dim=-1)


def _activate(y: Tensor, activation: Activation) -> Tensor:
    return y * torch.sigmoid(1.702 * y) if activation == "quick_gelu" else F.gelu(y)


def narrowed(
    weights: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """The weights of a plain program: all in one dtype, on the device."""
    return {
        name: tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)
        for name, tensor in weights.items()
    }
