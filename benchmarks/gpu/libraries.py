"""The towers of the libraries that are installed, as each writes them, with the cell's weights."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec

import torch

from benchmarks.peers.modules import Text, Vision, import_open_clip, transformers_tower
from clipfast.config import ModelConfig, ResNetConfig, VisionTransformerConfig
from tests.layouts import open_clip_config

Weights = Mapping[str, torch.Tensor]
Make = Callable[[Weights, ModelConfig], torch.nn.Module]


def library_towers(
    which: str,
    weights: Weights,
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    without: Sequence[str] = (),
) -> dict[str, torch.nn.Module | str]:
    """Library -> its eager tower in `dtype` on the device, or a sentence that says why there is none.

    Args:
        which: "vision", (B, 3, R, R) normalised pixels in `dtype` -> (B, E) unit rows; or "text", (B, L) int64 ids,
            padded -> (B, E) unit rows.
        without: libraries that are not asked for.
    """
    return {
        library: _tower(library, make, which, weights, config, dtype, device)
        for library, make in (VISION if which == "vision" else TEXT).items()
        if library not in without
    }


def why(error: Exception) -> str:
    """An error in one line."""
    return traceback.format_exception_only(error)[-1].strip().splitlines()[0]


def _tower(
    library: str,
    make: Make,
    which: str,
    weights: Weights,
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.nn.Module | str:
    if find_spec(library) is None:
        return "it is not installed"
    try:
        with device:  # to draw its first weights there, which on a CPU takes a while
            tower = make(weights, config)
    except Exception as error:  # noqa: BLE001  of another version's API: the others are measured without it
        return why(error)
    wrapped = Vision(tower) if which == "vision" else Text(tower)
    return wrapped.eval().requires_grad_(False).to(device, dtype)


def _open_clip_vision(weights: Weights, config: ModelConfig) -> torch.nn.Module:
    model = import_open_clip().model.CLIP(**open_clip_config(config)["model_cfg"])
    model.load_state_dict(dict(weights))
    return model.visual


class _OpenClipText(torch.nn.Module):
    """`encode_text` of open_clip's model, which keeps the text tower's parts at its top."""

    def __init__(self, weights: Weights, config: ModelConfig) -> None:
        super().__init__()
        self.model = import_open_clip().model.CLIP(**open_clip_config(config)["model_cfg"])
        self.model.load_state_dict(dict(weights))
        del self.model.visual

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model.encode_text(ids)


def _timm_vision(weights: Weights, config: ModelConfig) -> torch.nn.Module:
    """The classes behind timm's `vit_*_clip_*` and `resnet50*_clip`, whose own filter renames OpenAI's tensors."""
    vision = config.vision
    if isinstance(vision, ResNetConfig):
        from timm.models import byobnet

        module = byobnet.ByobNet(
            _byob_config(vision), num_classes=config.embed_dim, img_size=vision.image_size
        )
        module.load_state_dict(byobnet.checkpoint_filter_fn(dict(weights), module))
        return module
    assert isinstance(vision, VisionTransformerConfig)
    from timm.layers import LayerNorm
    from timm.models import vision_transformer

    module = vision_transformer.VisionTransformer(
        img_size=vision.image_size,
        patch_size=vision.patch_size,
        embed_dim=vision.width,
        depth=vision.layers,
        num_heads=vision.heads,
        mlp_ratio=vision.mlp_width / vision.width,
        num_classes=config.embed_dim,
        pre_norm=True,
        norm_layer=partial(LayerNorm, eps=vision.layer_norm_eps),
        act_layer=vision.activation,
    )
    module.load_state_dict(vision_transformer.checkpoint_filter_fn(dict(weights), module))
    return module


def _byob_config(vision: ResNetConfig):
    """timm's `resnet50_clip`, at any width and depth."""
    from timm.models.byobnet import ByoBlockCfg, ByoModelCfg

    blocks = tuple(
        ByoBlockCfg("bottle", d=depth, c=4 * vision.width << stage, s=min(stage, 1) + 1, br=0.25)
        for stage, depth in enumerate(vision.blocks)
    )
    return ByoModelCfg(
        blocks,
        stem_chs=(vision.width // 2, vision.width // 2, vision.width),
        stem_type="",
        stem_pool="avg2",
        downsample="avg",
        aa_layer="avg",
        head_type="attn_abs",
    )


VISION: dict[str, Make] = {
    "transformers": partial(transformers_tower, which="vision"),
    "timm": _timm_vision,
    "open_clip": _open_clip_vision,
}
TEXT: dict[str, Make] = {
    "transformers": partial(transformers_tower, which="text"),
    "open_clip": _OpenClipText,
}
