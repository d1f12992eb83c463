"""The tensor names and configs of each published layout, made from canonical weights."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import torch

from clipfast.config import ModelConfig, ResNetConfig
from tests.random_weights import Weights, is_half_in_openai


def _module_tree(weights: Weights) -> torch.nn.Module:
    """Nested modules whose state dict has exactly these names."""
    root = torch.nn.Module()
    for name, tensor in weights.items():
        *path, leaf = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, torch.nn.Module())
            module = module._modules[part]  # type: ignore[assignment]
        if tensor.is_floating_point() and "running" not in leaf:
            module.register_parameter(leaf, torch.nn.Parameter(tensor, requires_grad=False))
        else:
            module.register_buffer(leaf, tensor)
    return root


class _Traced(torch.nn.Module):
    """Something to trace, with a tensor constant: OpenAI's archives are traced programs."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.logit_scale.exp() * image + torch.tensor([1.0, 2.0, 3.0])  # type: ignore[operator]


def save_openai_jit(weights: Weights, config: ModelConfig, path: Path) -> Path:
    """A TorchScript archive as `clip.load` downloads it: float16 matrices, three integer buffers."""
    stored = {k: v.half() if is_half_in_openai(k) else v for k, v in weights.items()}
    root = _module_tree(stored)
    root.__class__ = _Traced
    for name, value in (
        ("input_resolution", config.vision.image_size),
        ("context_length", config.text.context_length),
        ("vocab_size", config.text.vocab_size),
    ):
        root.register_buffer(name, torch.tensor(value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # the constant is there on purpose
        warnings.simplefilter("ignore", DeprecationWarning)  # the format stays, its writer goes
        torch.jit.save(torch.jit.trace(root, torch.zeros(3), check_trace=False), path)
    return path


def to_custom_text(weights: Weights, *, linear: bool = False) -> Weights:
    """open_clip's CustomTextCLIP names: the text tower under `text.`, its projection a Linear if asked."""
    renamed = {
        k if k.startswith(("visual.", "logit_scale")) else f"text.{k}": v
        for k, v in weights.items()
    }
    if linear:
        projection = renamed.pop("text.text_projection")
        renamed["text.text_projection.weight"] = projection.t().contiguous()
    return renamed


_HF_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_HF_NAMES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
}


def to_hf(weights: Weights) -> Weights:
    """transformers' CLIPModel names: query, key and value apart, projections transposed."""
    renamed: Weights = {}
    for name, tensor in weights.items():
        if name in _HF_NAMES:
            moved = (
                tensor.t().contiguous() if name in ("visual.proj", "text_projection") else tensor
            )
            renamed[_HF_NAMES[name]] = moved
            continue
        match = re.fullmatch(
            r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)", name
        )
        if match is None:
            raise ValueError(f"{name}: transformers has no CLIP model with this tensor")
        tower = "vision_model" if match[1] else "text_model"
        layer = f"{tower}.encoder.layers.{match[2]}"
        if match[3] == "attn.in_proj":
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{layer}.self_attn.{part}_proj.{match[4]}"] = rows.contiguous()
        else:
            renamed[f"{layer}.{_HF_BLOCK[match[3]]}.{match[4]}"] = tensor
    return renamed


def hf_config(config: ModelConfig, *, eos_token_id: int = 49407) -> dict[str, Any]:
    """config.json of a CLIPModel directory."""
    if isinstance(config.vision, ResNetConfig):
        raise ValueError("transformers has no CLIP ResNet")
    text, vision = config.text, config.vision
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.embed_dim,
        "logit_scale_init_value": 2.6592,
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": text.vocab_size,
            "hidden_size": text.width,
            "intermediate_size": text.mlp_width,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "max_position_embeddings": text.context_length,
            "hidden_act": text.activation,
            "layer_norm_eps": text.layer_norm_eps,
            "bos_token_id": 49406,
            "eos_token_id": eos_token_id,
            "projection_dim": config.embed_dim,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "hidden_size": vision.width,
            "intermediate_size": vision.mlp_width,
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.heads,
            "hidden_act": vision.activation,
            "layer_norm_eps": vision.layer_norm_eps,
            "projection_dim": config.embed_dim,
        },
    }


def open_clip_config(config: ModelConfig) -> dict[str, Any]:
    """open_clip_config.json, as open_clip writes it beside the weights it uploads."""
    text, vision, pixels = config.text, config.vision, config.preprocess
    if isinstance(vision, ResNetConfig):
        vision_cfg: dict[str, Any] = {"layers": list(vision.blocks), "width": vision.width}
    else:
        vision_cfg = {
            "layers": vision.layers,
            "width": vision.width,
            "patch_size": vision.patch_size,
            "head_width": vision.head_dim,
            "mlp_ratio": vision.mlp_width / vision.width,
        }
    return {
        "model_cfg": {
            "embed_dim": config.embed_dim,
            "quick_gelu": text.activation == "quick_gelu",
            "vision_cfg": {"image_size": vision.image_size, **vision_cfg},
            "text_cfg": {
                "context_length": text.context_length,
                "vocab_size": text.vocab_size,
                "width": text.width,
                "heads": text.heads,
                "layers": text.layers,
                "mlp_ratio": text.mlp_width / text.width,
            },
        },
        "preprocess_cfg": {
            "mean": list(pixels.mean),
            "std": list(pixels.std),
            "interpolation": pixels.interpolation,
            "resize_mode": pixels.resize_mode,
        },
    }
