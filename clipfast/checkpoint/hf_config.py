"""Reads config.json and preprocessor_config.json: what transformers keeps beside a CLIPModel's weights."""

from __future__ import annotations

from pathlib import Path

from clipfast.checkpoint.declaration import CLIP_EOT, ConfigSection, Declaration, read_json
from clipfast.config import (
    OPENAI_MEAN,
    OPENAI_STD,
    Activation,
    Interpolation,
    PreprocessConfig,
    ResizeMode,
)
from clipfast.errors import CheckpointError

FILE_NAME = "config.json"
_LEGACY_EOS = 2  # written into early configs by mistake; transformers then pools at the largest id, which is EOT
_PIL_FILTERS: dict[object, Interpolation] = {2: "bilinear", 3: "bicubic"}


def read_hf_config(path: Path) -> Declaration:
    """What a CLIPModel's config.json declares, with transformers' own defaults for what it leaves out.

    Raises: CheckpointError for another model type, activation or end-of-text token than CLIP's.
    """
    root = ConfigSection(path, read_json(path))
    kind = root.data.get("model_type")
    if kind != "clip":
        raise CheckpointError(
            f"{path}: model_type is {repr(kind)[:100]}, a family that is not supported yet (expected 'clip')"
        )
    text, vision = _tower(root, "text_config"), _tower(root, "vision_config")
    eos = text.data.get("eos_token_id", CLIP_EOT)
    if eos not in (CLIP_EOT, _LEGACY_EOS):
        raise text.error("eos_token_id", eos, f"{CLIP_EOT}, or {_LEGACY_EOS} in early files")
    sizes = {
        "embed_dim": root.integer("projection_dim", 512),
        "vision.image_size": vision.integer("image_size", 224),
        "vision.patch_size": vision.integer("patch_size", 32),
        "text.context_length": text.integer("max_position_embeddings", 77),
        "text.vocab_size": text.integer("vocab_size", 49408),
    }
    for name, tower, width in (("vision", vision, 768), ("text", text, 512)):
        sizes[f"{name}.width"] = tower.integer("hidden_size", width)
        sizes[f"{name}.layers"] = tower.integer("num_hidden_layers", 12)
        sizes[f"{name}.mlp_width"] = tower.integer("intermediate_size", 4 * width)
    return Declaration(
        origin=FILE_NAME,
        vision_heads=vision.integer("num_attention_heads", 12),
        text_heads=text.integer("num_attention_heads", 8),
        vision_activation=_activation(vision),
        text_activation=_activation(text),
        vision_eps=vision.number("layer_norm_eps", 1e-5),
        text_eps=text.number("layer_norm_eps", 1e-5),
        sizes=sizes,
    )


def _tower(root: ConfigSection, key: str) -> ConfigSection:
    """A tower's config. Early files repeat it under `<key>_dict`, which wins where it is present."""
    if root.data.get(f"{key}_dict") is not None:
        return root.section(f"{key}_dict")
    return root.section(key)


def _activation(tower: ConfigSection) -> Activation:
    name = tower.data.get("hidden_act", "quick_gelu")
    if name == "gelu":
        return "gelu"
    if name == "quick_gelu":
        return "quick_gelu"
    raise tower.error("hidden_act", name, "'gelu' or 'quick_gelu'")


def read_hf_preprocessor(path: Path) -> Declaration:
    """The preprocessing that a preprocessor_config.json (or the image part of a processor_config.json) declares.

    Raises: CheckpointError when it is not resize (bicubic or bilinear), crop to the image size, normalise.
    """
    section = ConfigSection(path, read_json(path))
    if "image_processor" in section.data:
        section = section.section("image_processor")
    for key in ("do_resize", "do_normalize", "do_rescale"):
        if not section.flag(key, True):
            raise section.error(key, False, "true")
    if abs(section.number("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise section.error("rescale_factor", section.data["rescale_factor"], "1/255")
    resample = section.data.get("resample", 3)
    if type(resample) is not int or resample not in _PIL_FILTERS:
        raise section.error("resample", resample, "3 (bicubic) or 2 (bilinear)")
    resize_mode, size = _geometry(section)
    return Declaration(
        origin=path.name,
        preprocess=PreprocessConfig(
            mean=section.triple("image_mean", OPENAI_MEAN),
            std=section.triple("image_std", OPENAI_STD, positive=True),
            interpolation=_PIL_FILTERS[resample],
            resize_mode=resize_mode,
        ),
        sizes={"vision.image_size": size},
    )


def _geometry(section: ConfigSection) -> tuple[ResizeMode, int]:
    """How images become square, and the side. `size` was a plain number in early files."""
    size = section.data.get("size", {"shortest_edge": 224})
    squash = isinstance(size, dict) and "height" in size
    side = _side(section, "size", "height" if squash else "shortest_edge")
    if squash and size["height"] != size.get("width"):
        raise section.error("size", size, "a square")
    center_crop = section.flag("do_center_crop", True)
    crop = _side(section, "crop_size", "height") if "crop_size" in section.data else side
    if crop != side if center_crop else not squash:
        raise section.error("crop_size", crop, f"a centre crop to the resized side, {side}")
    return ("squash" if squash else "shortest"), side


def _side(section: ConfigSection, key: str, inner: str) -> int:
    if isinstance(section.data.get(key), dict):
        return section.section(key).integer(inner, 224)
    return section.integer(key, 224)
