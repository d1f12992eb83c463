"""The towers as other libraries write them, with the weights everyone shares; each returns unit rows.

transformers' for the vision transformers and texts, open_clip's for ResNets, which transformers does not have.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from benchmarks import work as inputs
from benchmarks.work import MODELS, TEXT_TASKS, Work, has_resnet
from clipfast.config import ModelConfig
from tests.layouts import hf_config, to_hf

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.float32}


class Vision(torch.nn.Module):
    """(N, 3, R, R) normalised pixels -> (N, E) unit rows."""

    def __init__(self, tower: torch.nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        rows = self.tower(pixel_values)
        rows = rows if isinstance(rows, torch.Tensor) else rows.image_embeds
        return F.normalize(rows, dim=-1)


class Text(torch.nn.Module):
    """(N, L) int64 ids -> (N, E) unit rows."""

    def __init__(self, tower: torch.nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        rows = self.tower(input_ids)
        rows = rows if isinstance(rows, torch.Tensor) else rows.text_embeds
        return F.normalize(rows, dim=-1)


def tower(work: Work) -> torch.nn.Module:
    """The tower of the work's task, in float32, or bfloat16 where the work asks for it."""
    if work.task in TEXT_TASKS:
        module: torch.nn.Module = Text(_transformers_tower(work, "text"))
    elif has_resnet(work):
        module = Vision(open_clip_model(work).visual)
    else:
        module = Vision(_transformers_tower(work, "vision"))
    return module.eval().requires_grad_(False).to(DTYPES[work.precision])


def tower_inputs(work: Work, *, length: int | None = None) -> torch.Tensor:
    """Ready-made inputs of the work: normalised pixels in the tower's dtype, or ids cut to `length` tokens."""
    config = MODELS[work.model]
    if work.task in TEXT_TASKS:
        ids = inputs.token_ids(work.task, work.batch, config.text.context_length)
        return torch.from_numpy(ids[:, :length]).long()
    images = inputs.pixels(work.batch, config.vision.image_size)
    return torch.from_numpy(inputs.normalised(images, config)).to(DTYPES[work.precision])


def longest(work: Work) -> int:
    """Tokens of the longest text of the batch: padding to it is exact for causal towers."""
    ids = inputs.token_ids(work.task, work.batch, MODELS[work.model].text.context_length)
    return int(ids.argmax(axis=1).max()) + 1


def open_clip_model(work: Work) -> torch.nn.Module:
    """open_clip's own model, both towers, float32."""
    open_clip = import_open_clip()
    config = json.loads(Path(work.weights, "open_clip_config.json").read_text(encoding="utf-8"))
    model = open_clip.model.CLIP(**config["model_cfg"])
    model.load_state_dict(load_file(Path(work.weights, "open_clip_model.safetensors")))
    return model.eval().requires_grad_(False)


def import_open_clip():
    """open_clip, after what its imports need."""
    make_torchvision_importable()
    import open_clip

    return open_clip


def make_torchvision_importable() -> None:
    """open_clip and transformers import torchvision, whose import fails beside a torch of another build: its compiled
    operators are then missing. CLIP uses none of them, so two schemas without kernels are enough."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)


_KEPT: list[torch.library.Library] = []  # a library's definitions live as long as it does


def transformers_tower(
    weights: Mapping[str, torch.Tensor], config: ModelConfig, which: str
) -> torch.nn.Module:
    """transformers' "vision" or "text" tower with the canonical weights, float32. Raises: ValueError for ResNets."""
    described = hf_config(config)
    make_torchvision_importable()
    from transformers import (
        CLIPConfig,
        CLIPTextModelWithProjection,
        CLIPVisionModelWithProjection,
    )

    whole = CLIPConfig(**described)
    module = (
        CLIPTextModelWithProjection(whole.text_config)
        if which == "text"
        else CLIPVisionModelWithProjection(whole.vision_config)
    )
    tensors = to_hf(dict(weights))
    own = {name: tensors[name] for name in module.state_dict() if name in tensors}
    missing = module.load_state_dict(own, strict=False).missing_keys
    assert not missing, f"transformers' tower wants {missing}"
    return module


def _transformers_tower(work: Work, which: str) -> torch.nn.Module:
    weights = load_file(Path(work.weights, "open_clip_model.safetensors"))
    return transformers_tower(weights, MODELS[work.model], which)
