"""Canonical tensors to the parameters that the operations read: every fold is exact algebra, done once at load.

    LayerNorm into linear   W (n * g + b) + c          = (W g) n + (W b + c)
    mean of a weight's row  (w - mean(w)) n            = w n                     (n has no mean)
    softmax scale           (q s) k^T                  = s (q k^T),              s = head_dim^-0.5
    key bias                softmax(q (k + b_k)^T)     = softmax(q k^T)          (q b_k is the same for every key)
    value bias              sum_j p_j (v_j + b_v)      = sum_j p_j v_j + b_v     (the p_j sum to 1)
    QuickGELU               y sigmoid(1.702 y)         = SiLU(1.702 y) / 1.702
    pixel normalisation     W ((p / 255 - m) / s)      = (W / (255 s)) p - sum W m / s
    BatchNorm               g (conv(x) - m) / sqrt(v + eps) + b, a scale and a shift of the output channel

Matrices take the compute dtype; norms, positions and embeddings added to the residual stream take the stream dtype
(float32 beside bfloat16 and float16), because rounding the stream costs more cosine than rounding the weights.
ln_pre, ln_post and ln_final keep their scale and shift: the first feeds the residual stream, the others touch one row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from clipfast.config import (
    Activation,
    ModelConfig,
    PreprocessConfig,
    ResNetConfig,
    TextConfig,
    VisionTransformerConfig,
)
from clipfast.parameters import (
    AttentionPool,
    Block,
    Bottleneck,
    Convolution,
    LayerNorm,
    Linear,
    Parameters,
    PatchEmbed,
    ResNet,
    Stem,
    Tensor,
    TextTransformer,
    VisionTransformer,
)

QUICK_GELU_SLOPE = 1.702
BATCH_NORM_EPS = 1e-5


class Prepare(Protocol):
    """A linear layer in a backend's own layout, as `ops.Prepare` says."""

    def __call__(
        self, linear: Linear, boundary: int | None = None, *, activated: bool = False
    ) -> Linear: ...


class PrepareConvolution(Protocol):
    """A convolution in a backend's own layout, as `ops.PrepareConvolution` says."""

    def __call__(self, convolution: Convolution) -> Convolution: ...


def _unchanged_convolution(convolution: Convolution) -> Convolution:
    return convolution


def _unchanged(linear: Linear, boundary: int | None = None, *, activated: bool = False) -> Linear:
    return linear


def fold(
    tensors: Mapping[str, Tensor],
    config: ModelConfig,
    dtype: torch.dtype,
    prepare: Prepare = _unchanged,
    quantise: Prepare | None = None,
    prepare_convolution: PrepareConvolution = _unchanged_convolution,
) -> Parameters:
    """The parameters of both towers.

    Args:
        tensors: canonical name -> tensor in any floating dtype (`Checkpoint.tensors`); read one at a time.
        config: of the same model.
        dtype: of the matrices. Folding itself is done in float32, or float64 when that is the dtype.
        prepare: applied to each linear layer of the transformers as it is made, so that no second copy of all exists.
        quantise: takes the place of `prepare` for the layers inside the blocks.
        prepare_convolution: applied to each convolution of stride 1.
    """
    folder = _Folder(tensors, dtype, prepare, quantise, prepare_convolution)
    vision = (
        folder.resnet(config.vision, config.preprocess)
        if isinstance(config.vision, ResNetConfig)
        else folder.vision_transformer(config.vision, config.preprocess)
    )
    logit_scale = float(tensors["logit_scale"].double().exp())
    return Parameters(vision, folder.text(config.text), logit_scale)


def fold_text(
    tensors: Mapping[str, Tensor], config: TextConfig, dtype: torch.dtype
) -> TextTransformer:
    """The text tower's parameters alone, as `fold` makes them."""
    return _Folder(tensors, dtype).text(config)


def stream_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the residual stream beside matrices of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class _Folder:
    """Reads canonical tensors in the working dtype and writes folded ones in the compute dtype."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        dtype: torch.dtype,
        prepare: Prepare = _unchanged,
        quantise: Prepare | None = None,
        prepare_convolution: PrepareConvolution = _unchanged_convolution,
    ) -> None:
        self.tensors = tensors
        self.prepare_convolution = prepare_convolution
        self.prepare = prepare
        self.quantise = quantise
        self.dtype = dtype
        self.stream = stream_dtype(dtype)

    def read(self, name: str) -> Tensor:
        """A private copy in the working dtype.

        Never a view of the file: the sums inside a matrix product depend on how its operands are aligned, and the
        same weights must fold to the same bits from every layout.
        """
        return self.tensors[name].to(self.stream, copy=True)

    def keep(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype).contiguous()

    def keep_stream(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.stream).contiguous()

    def linear(self, weight: Tensor, bias: Tensor | None) -> Linear:
        return self.prepare(self._linear(weight, bias))

    def layer(
        self, weight: Tensor, bias: Tensor, boundary: int | None = None, *, activated: bool = False
    ) -> Linear:
        """A layer inside a block."""
        prepare = self.quantise or self.prepare
        return prepare(self._linear(weight, bias), boundary, activated=activated)

    def _linear(self, weight: Tensor, bias: Tensor | None) -> Linear:
        return Linear(self.keep(weight), None if bias is None else self.keep(bias))

    def projection(self, name: str) -> Linear:
        """(width, E), applied as x @ proj, to (E, width)."""
        return self.linear(self.read(name).T, None)

    def layer_norm(self, name: str, eps: float) -> LayerNorm:
        weight, bias = self.read(f"{name}.weight"), self.read(f"{name}.bias")
        return LayerNorm(self.keep_stream(weight), self.keep_stream(bias), eps)

    # ---- transformers ----------------------------------------------------------------------------------------

    def blocks(
        self, prefix: str, config: VisionTransformerConfig | TextConfig
    ) -> tuple[Block, ...]:
        return tuple(
            self.block(
                f"{prefix}.resblocks.{i}",
                config.heads,
                config.activation,
                config.layer_norm_eps,
                pooled=i == config.layers - 1,
            )
            for i in range(config.layers)
        )

    def block(
        self, name: str, heads: int, activation: Activation, eps: float, *, pooled: bool
    ) -> Block:
        out_weight = self.read(f"{name}.attn.out_proj.weight")
        width = out_weight.shape[0]
        ln_1, qkv_weight, qkv_bias = self._after_norm(
            f"{name}.ln_1", f"{name}.attn.in_proj_weight", f"{name}.attn.in_proj_bias", eps
        )
        scale = (width // heads) ** -0.5
        qkv_weight[:width] *= scale
        qkv_bias[:width] *= scale
        value_bias = qkv_bias[2 * width :].clone()  # a copy: training differentiates through this
        out_bias = self.read(f"{name}.attn.out_proj.bias") + out_weight @ value_bias
        qkv_bias[width:] = 0

        ln_2, fc_weight, fc_bias = self._after_norm(
            f"{name}.ln_2", f"{name}.mlp.c_fc.weight", f"{name}.mlp.c_fc.bias", eps
        )
        proj_weight = self.read(f"{name}.mlp.c_proj.weight")
        quick = activation == "quick_gelu"
        if quick:
            fc_weight *= QUICK_GELU_SLOPE
            fc_bias *= QUICK_GELU_SLOPE
            proj_weight = proj_weight / QUICK_GELU_SLOPE
        return Block(
            ln_1=ln_1,
            qkv=self.layer(qkv_weight, qkv_bias, width if pooled else None),
            out_proj=self.layer(out_weight, out_bias),
            ln_2=ln_2,
            c_fc=self.layer(fc_weight, fc_bias),
            c_proj=self.layer(proj_weight, self.read(f"{name}.mlp.c_proj.bias"), activated=True),
            activation="silu" if quick else "gelu",
        )

    def _after_norm(
        self, norm: str, weight: str, bias: str, eps: float
    ) -> tuple[LayerNorm, Tensor, Tensor]:
        """A LayerNorm and the linear that reads it, the norm's scale and shift inside the linear.

        Quantised, the norm keeps the power of two of each channel's scale, which is exact: trained norms scale
        outlier channels down, and left to the weight that would come after the rounding of the activations.
        """
        matrix, scale = self.read(weight), self.read(f"{norm}.weight")
        shifted = self.read(bias) + matrix @ self.read(f"{norm}.bias")
        if self.quantise is None:
            folded = matrix * scale
            # So that the product sees no mean of its input either (`ops.ReadStream`).
            return LayerNorm(None, None, eps), folded - folded.mean(dim=1, keepdim=True), shifted
        tiny = torch.finfo(scale.dtype).tiny
        kept = torch.exp2(torch.log2(scale.abs().clamp_min(tiny)).round())
        return LayerNorm(self.keep_stream(kept), None, eps), matrix * (scale / kept), shifted

    def vision_transformer(
        self, config: VisionTransformerConfig, preprocess: PreprocessConfig
    ) -> VisionTransformer:
        positions = self.read("visual.positional_embedding")
        class_row = self.read("visual.class_embedding") + positions[0]
        eps = config.layer_norm_eps
        return VisionTransformer(
            patch_embed=self.patch_embed(preprocess, class_row, positions[1:]),
            ln_pre=self.layer_norm("visual.ln_pre", eps),
            blocks=self.blocks("visual.transformer", config),
            ln_post=self.layer_norm("visual.ln_post", eps),
            proj=self.projection("visual.proj"),
        )

    def patch_embed(
        self, preprocess: PreprocessConfig, class_row: Tensor, positions: Tensor
    ) -> PatchEmbed:
        convolution = self.read("visual.conv1.weight")
        weight, bias = self._normalise_pixels(convolution, preprocess)
        embed = self.prepare(Linear(weight.flatten(1), bias))
        return PatchEmbed(
            weight=embed.weight,
            bias=bias,
            float_weight=self.keep(convolution.flatten(1)),
            class_row=self.keep_stream(class_row),
            positions=self.keep_stream(positions),
        )

    def _normalise_pixels(
        self, convolution: Tensor, preprocess: PreprocessConfig
    ) -> tuple[Tensor, Tensor]:
        """The convolution (O, 3, k, k) for pixels in [0, 255], rounded, and the bias that goes with it.

        The bias is computed from the rounded weight, so that a pixel equal to the mean still maps to exactly zero.
        """
        mean, std = _channels(preprocess.mean), _channels(preprocess.std)
        weight = self.keep(convolution.double() / (255 * std))
        bias = -(weight.double() * (255 * mean)).sum(dim=(1, 2, 3))
        return weight, self.keep(bias)

    def text(self, config: TextConfig) -> TextTransformer:
        return TextTransformer(
            token_embedding=self.tensors["token_embedding.weight"].to(self.dtype, copy=True),
            positions=self.keep_stream(self.read("positional_embedding")),
            blocks=self.blocks("transformer", config),
            ln_final=self.layer_norm("ln_final", config.layer_norm_eps),
            proj=self.projection("text_projection"),
        )

    # ---- ResNet ----------------------------------------------------------------------------------------------

    def resnet(self, config: ResNetConfig, preprocess: PreprocessConfig) -> ResNet:
        stages = tuple(
            tuple(
                self.bottleneck(f"visual.layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1)
                for i in range(count)
            )
            for stage, count in enumerate(config.blocks, start=1)
        )
        return ResNet(self.stem(preprocess), stages, self.attention_pool(config.heads))

    def stem(self, preprocess: PreprocessConfig) -> Stem:
        convolution, bias = self._batch_norm("visual.conv1.weight", "visual.bn1")
        weight, pixel_bias = self._normalise_pixels(convolution, preprocess)
        return Stem(
            conv1=Convolution(_channels_last(weight), self.keep(bias + pixel_bias)),
            pad_pixel=self.keep(255 * _channels(preprocess.mean).flatten()),
            float_conv1=self._convolution(convolution, bias),
            conv2=self.convolution("visual.conv2.weight", "visual.bn2"),
            conv3=self.convolution("visual.conv3.weight", "visual.bn3"),
        )

    def bottleneck(self, name: str, stride: int) -> Bottleneck:
        downsample = None
        if f"{name}.downsample.0.weight" in self.tensors:
            downsample = self.convolution(f"{name}.downsample.0.weight", f"{name}.downsample.1")
        conv1, conv2, conv3 = (
            self.convolution(f"{name}.conv{i}.weight", f"{name}.bn{i}") for i in (1, 2, 3)
        )
        return Bottleneck(conv1, conv2, conv3, downsample, stride)

    def convolution(self, weight: str, norm: str) -> Convolution:
        return self.prepare_convolution(self._convolution(*self._batch_norm(weight, norm)))

    def _convolution(self, weight: Tensor, bias: Tensor) -> Convolution:
        return Convolution(_channels_last(self.keep(weight)), self.keep(bias))

    def _batch_norm(self, weight: str, norm: str) -> tuple[Tensor, Tensor]:
        variance = self.read(f"{norm}.running_var")
        scale = self.read(f"{norm}.weight") / torch.sqrt(variance + BATCH_NORM_EPS)
        bias = self.read(f"{norm}.bias") - self.read(f"{norm}.running_mean") * scale
        return self.read(weight) * scale[:, None, None, None], bias

    def attention_pool(self, heads: int) -> AttentionPool:
        name = "visual.attnpool"
        positions = self.read(f"{name}.positional_embedding")
        scale = (positions.shape[1] // heads) ** -0.5
        out_weight = self.read(f"{name}.c_proj.weight")
        out_bias = self.read(f"{name}.c_proj.bias") + out_weight @ self.read(f"{name}.v_proj.bias")
        kv_weight = torch.cat(
            [self.read(f"{name}.k_proj.weight"), self.read(f"{name}.v_proj.weight")]
        )
        query_weight, query_bias = (
            self.read(f"{name}.q_proj.{part}") for part in ("weight", "bias")
        )
        return AttentionPool(
            positions=self.keep_stream(positions),
            query=self.linear(query_weight * scale, query_bias * scale),
            kv=self._linear(kv_weight, None),  # as it is: no row of tokens meets it
            out_proj=self.linear(out_weight, out_bias),
        )


def _channels_last(weight: Tensor) -> Tensor:
    return weight.contiguous(memory_format=torch.channels_last)


def _channels(values: tuple[float, float, float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1)
