"""Reads open_clip_config.json: the model and preprocessing config that open_clip keeps beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

from clipfast.checkpoint.declaration import ConfigSection, Declaration, read_json
from clipfast.config import (
    OPENAI_MEAN,
    OPENAI_STD,
    Activation,
    Interpolation,
    PreprocessConfig,
    ResizeMode,
)
from clipfast.errors import CheckpointError

FILE_NAME = "open_clip_config.json"

# open_clip's optional features and the values that leave a tower plain CLIP; any other value changes its computation.
_PLAIN_TOWER: dict[str, tuple[Any, ...]] = {
    "ls_init_value": (None,),
    "act_kwargs": (None, {}),
    "block_type": (None, "default"),
    "qk_norm": (False,),
    "scaled_cosine_attn": (False,),
    "scale_heads": (False,),
    "scale_attn_inner": (False,),
    "scale_attn": (False,),
    "scale_fc": (False,),
    "final_ln_after_pool": (False,),
}
_PLAIN_VISION = _PLAIN_TOWER | {
    "timm_model_name": (None, ""),
    "attentional_pool": (False,),
    "no_ln_pre": (False,),
    "pos_embed_type": ("learnable",),
    "pool_type": ("tok",),
}
_PLAIN_TEXT = _PLAIN_TOWER | {
    "hf_model_name": (None, ""),
    "hf_tokenizer_name": (None, ""),
    "tokenizer_kwargs": (None, {}),
    "tokenizer_mode": (None, "", "lower"),
    "embed_cls": (False,),
    "no_causal_mask": (False,),
    "pool_type": ("argmax",),
    "proj_type": ("linear",),
    "proj_bias": (False,),
}
# Training switches, sizes that are read below, and options of features that are off.
_NEUTRAL = {
    "layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "patch_dropout", "output_tokens",
    "attn_pooler_queries", "attn_pooler_heads", "norm_kwargs", "context_length", "vocab_size", "heads", "pad_id",
    "eos_id", "timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias", "timm_drop", "timm_drop_path",
    "hf_model_pretrained", "hf_proj_type", "hf_pooler_type",
}  # fmt: skip


def read_open_clip_config(path: Path) -> Declaration:
    """What an open_clip_config.json declares.

    Raises: CheckpointError for a model that is not plain CLIP (timm or Hugging Face towers, CoCa, LayerScale, ...),
        naming the setting.
    """
    root = ConfigSection(path, read_json(path))
    model = root.section("model_cfg")
    if "multimodal_cfg" in model.data:
        raise CheckpointError(f"{path}: a CoCa model (multimodal_cfg), which is not supported yet")
    if model.data.get("init_logit_bias") is not None:
        raise CheckpointError(
            f"{path}: a SigLIP model (init_logit_bias), which is not supported yet"
        )
    vision, text = model.section("vision_cfg"), model.section("text_cfg")
    _require_plain(vision, _PLAIN_VISION)
    _require_plain(text, _PLAIN_TEXT)
    quick = model.data.get("quick_gelu") is not None and model.flag("quick_gelu", False)
    activation: Activation = "quick_gelu" if quick else "gelu"
    text_width = text.integer("width", 512)
    sizes: dict[str, Any] = {
        "embed_dim": model.integer("embed_dim", 512),
        "text.context_length": text.integer("context_length", 77),
        "text.vocab_size": text.integer("vocab_size", 49408),
        "text.width": text_width,
        "text.layers": text.integer("layers", 12),
        "text.mlp_width": int(text_width * text.number("mlp_ratio", 4.0)),
    }
    vision_sizes, vision_heads = _vision(vision)
    return Declaration(
        origin=FILE_NAME,
        vision_heads=vision_heads,
        text_heads=text.integer("heads", 8),
        vision_activation=activation,
        text_activation=activation,
        vision_eps=vision.section("norm_kwargs").number("eps", 1e-5),
        text_eps=text.section("norm_kwargs").number("eps", 1e-5),
        preprocess=_preprocess(root.section("preprocess_cfg")),
        sizes=sizes | vision_sizes,
    )


def _require_plain(section: ConfigSection, plain: Mapping[str, tuple[Any, ...]]) -> None:
    for key, value in section.data.items():
        if key in plain and value not in plain[key]:
            raise CheckpointError(
                f"{section.path}: {section.name}{key} is {repr(value)[:100]}: a model family that is not supported yet "
                "(plain CLIP towers are)"
            )
        if key not in plain and key not in _NEUTRAL:
            raise CheckpointError(
                f"{section.path}: {section.name}{key[:100]} is not a setting that clipfast knows"
            )


def _vision(vision: ConfigSection) -> tuple[dict[str, Any], int]:
    """The sizes of the image tower, and its heads."""
    width, head_width = vision.integer("width", 768), vision.integer("head_width", 64)
    sizes: dict[str, Any] = {
        "vision.image_size": vision.integer("image_size", 224),
        "vision.width": width,
    }
    blocks = vision.data.get("layers")
    if isinstance(blocks, list):
        return sizes | {"vision.blocks": tuple(blocks)}, width * 32 // head_width
    sizes["vision.layers"] = vision.integer("layers", 12)
    sizes["vision.patch_size"] = vision.integer("patch_size", 16)
    sizes["vision.mlp_width"] = int(width * vision.number("mlp_ratio", 4.0))
    return sizes, width // head_width


def _preprocess(section: ConfigSection) -> PreprocessConfig:
    interpolation = section.data.get("interpolation") or "bicubic"
    if interpolation not in get_args(Interpolation):
        raise section.error("interpolation", interpolation, "bicubic or bilinear")
    resize_mode = section.data.get("resize_mode") or "shortest"
    if resize_mode not in get_args(ResizeMode):
        raise section.error("resize_mode", resize_mode, "shortest or squash")
    return PreprocessConfig(
        mean=section.triple("mean", OPENAI_MEAN),
        std=section.triple("std", OPENAI_STD, positive=True),
        interpolation=cast("Interpolation", interpolation),
        resize_mode=cast("ResizeMode", resize_mode),
    )
