"""CLIP as the papers write it, from canonical tensors, in float64: no fold, no packing, no pruning. The oracle."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from clipfast.config import ModelConfig, ResNetConfig, TextConfig, VisionTransformerConfig

Tensor = torch.Tensor


class Textbook:
    """Embeddings (not normalised) of `config`'s towers with the weights in `tensors`."""

    def __init__(self, tensors: Mapping[str, Tensor], config: ModelConfig) -> None:
        self.t = {name: tensor.double() for name, tensor in tensors.items()}
        self.config = config

    def normalised(self, pixels: Tensor) -> Tensor:
        mean, std = (
            torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1)
            for values in (self.config.preprocess.mean, self.config.preprocess.std)
        )
        return (pixels.double() / 255 - mean) / std

    def image(self, pixels: Tensor) -> Tensor:
        x = self.normalised(pixels) if pixels.dtype == torch.uint8 else pixels.double()
        if isinstance(self.config.vision, ResNetConfig):
            return self._resnet(x, self.config.vision)
        tokens = self.image_tokens(x)[-1]
        return (
            self._norm(tokens[:, 0], "visual.ln_post", self.config.vision) @ self.t["visual.proj"]
        )

    def image_tokens(self, x: Tensor) -> list[Tensor]:
        config = self.config.vision
        assert isinstance(config, VisionTransformerConfig)
        patches = F.conv2d(x, self.t["visual.conv1.weight"], stride=config.patch_size)
        patches = patches.flatten(2).transpose(1, 2)
        first = self.t["visual.class_embedding"].expand(len(x), 1, -1)
        x = torch.cat([first, patches], dim=1) + self.t["visual.positional_embedding"]
        x = self._norm(x, "visual.ln_pre", config)
        return self._blocks(x, "visual.transformer", config, causal=False)

    def text(self, ids: Tensor) -> Tensor:
        """ids: (N, context_length), zero padded."""
        x = self._norm(self.text_tokens(ids)[-1], "ln_final", self.config.text)
        eot = (ids == self.config.text.eot_id).int().argmax(dim=1)
        return x[torch.arange(len(ids)), eot] @ self.t["text_projection"]

    def text_tokens(self, ids: Tensor) -> list[Tensor]:
        x = self.t["token_embedding.weight"][ids.long()]
        x = x + self.t["positional_embedding"][: ids.shape[1]]
        return self._blocks(x, "transformer", self.config.text, causal=True)

    def _norm(self, x: Tensor, name: str, config: VisionTransformerConfig | TextConfig) -> Tensor:
        weight, bias = self.t[f"{name}.weight"], self.t[f"{name}.bias"]
        return F.layer_norm(x, x.shape[-1:], weight, bias, config.layer_norm_eps)

    def _blocks(
        self, x: Tensor, prefix: str, config: VisionTransformerConfig | TextConfig, *, causal: bool
    ) -> list[Tensor]:
        states = [x]
        for i in range(config.layers):
            name = f"{prefix}.resblocks.{i}"
            x = x + self._attention(self._norm(x, f"{name}.ln_1", config), name, config, causal)
            x = x + self._mlp(self._norm(x, f"{name}.ln_2", config), name, config)
            states.append(x)
        return states

    def _attention(
        self, x: Tensor, name: str, config: VisionTransformerConfig | TextConfig, causal: bool
    ) -> Tensor:
        weight, bias = self.t[f"{name}.attn.in_proj_weight"], self.t[f"{name}.attn.in_proj_bias"]
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, config.heads, config.head_dim).transpose(1, 2)
            for part in (x @ weight.T + bias).split(width, dim=2)
        )
        logits = q @ k.transpose(2, 3) / config.head_dim**0.5
        if causal:
            hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
            logits = logits.masked_fill(hidden, -torch.inf)
        merged = (logits.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
        out = f"{name}.attn.out_proj"
        return merged @ self.t[f"{out}.weight"].T + self.t[f"{out}.bias"]

    def _mlp(self, x: Tensor, name: str, config: VisionTransformerConfig | TextConfig) -> Tensor:
        x = x @ self.t[f"{name}.mlp.c_fc.weight"].T + self.t[f"{name}.mlp.c_fc.bias"]
        x = F.gelu(x) if config.activation == "gelu" else x * torch.sigmoid(1.702 * x)
        return x @ self.t[f"{name}.mlp.c_proj.weight"].T + self.t[f"{name}.mlp.c_proj.bias"]

    def _resnet(self, x: Tensor, config: ResNetConfig) -> Tensor:
        x = F.relu(self._conv(x, "visual.conv1", "visual.bn1", stride=2, padding=1))
        x = F.relu(self._conv(x, "visual.conv2", "visual.bn2", padding=1))
        x = F.relu(self._conv(x, "visual.conv3", "visual.bn3", padding=1))
        x = F.avg_pool2d(x, 2)
        for stage, count in enumerate(config.blocks, start=1):
            for i in range(count):
                x = self._bottleneck(
                    x, f"visual.layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
                )
        return self._attention_pool(x, config)

    def _bottleneck(self, x: Tensor, name: str, stride: int) -> Tensor:
        y = F.relu(self._conv(x, f"{name}.conv1", f"{name}.bn1"))
        y = F.relu(self._conv(y, f"{name}.conv2", f"{name}.bn2", padding=1))
        y = self._conv(F.avg_pool2d(y, stride), f"{name}.conv3", f"{name}.bn3")
        if f"{name}.downsample.0.weight" in self.t:
            pooled = F.avg_pool2d(x, stride)
            x = self._conv(pooled, f"{name}.downsample.0", f"{name}.downsample.1")
        return F.relu(x + y)

    def _conv(self, x: Tensor, name: str, norm: str, stride: int = 1, padding: int = 0) -> Tensor:
        x = F.conv2d(x, self.t[f"{name}.weight"], stride=stride, padding=padding)
        statistics = (self.t[f"{norm}.running_mean"], self.t[f"{norm}.running_var"])
        affine = (self.t[f"{norm}.weight"], self.t[f"{norm}.bias"])
        return F.batch_norm(x, *statistics, *affine, eps=1e-5)

    def _attention_pool(self, x: Tensor, config: ResNetConfig) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1)
        x = x + self.t["visual.attnpool.positional_embedding"]
        batch, length, width = x.shape
        q, k, v = (
            (
                x @ self.t[f"visual.attnpool.{p}_proj.weight"].T
                + self.t[f"visual.attnpool.{p}_proj.bias"]
            )
            .view(batch, length, config.heads, -1)
            .transpose(1, 2)
            for p in "qkv"
        )
        attended = (q @ k.transpose(2, 3) / (width // config.heads) ** 0.5).softmax(dim=-1) @ v
        pooled = attended.transpose(1, 2).flatten(2)[:, 0]
        name = "visual.attnpool.c_proj"
        return pooled @ self.t[f"{name}.weight"].T + self.t[f"{name}.bias"]
