"""The vision towers of the libraries that are installed, with the cell's weights; what is missing is left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec

import torch

from benchmarks.peers.modules import Vision, import_open_clip, make_torchvision_importable
from clipfast.config import ModelConfig
from tests.layouts import hf_config, open_clip_config, to_hf

LIBRARIES = ("transformers", "open_clip")


def vision_towers(
    weights: Mapping[str, torch.Tensor],
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, torch.nn.Module]:
    """Library -> module: (B, 3, R, R) normalised pixels in `dtype` -> (B, E) unit rows."""
    makers: dict[str, Callable[[], torch.nn.Module]] = {
        "transformers": lambda: _transformers(weights, config),
        "open_clip": lambda: _open_clip(weights, config),
    }
    return {
        name: Vision(makers[name]()).eval().requires_grad_(False).to(device, dtype)
        for name in LIBRARIES
        if find_spec(name) is not None
    }


def _transformers(weights: Mapping[str, torch.Tensor], config: ModelConfig) -> torch.nn.Module:
    make_torchvision_importable()
    from transformers import CLIPConfig, CLIPVisionModelWithProjection

    module = CLIPVisionModelWithProjection(CLIPConfig(**hf_config(config)).vision_config)
    tensors = to_hf(dict(weights))
    own = {name: tensors[name] for name in module.state_dict() if name in tensors}
    missing = module.load_state_dict(own, strict=False).missing_keys
    assert not missing, f"transformers' tower wants {missing}"
    return module


def _open_clip(weights: Mapping[str, torch.Tensor], config: ModelConfig) -> torch.nn.Module:
    model = import_open_clip().model.CLIP(**open_clip_config(config)["model_cfg"])
    model.load_state_dict(dict(weights))
    return model.visual
