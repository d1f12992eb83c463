"""The reference implementations' own forward passes: transformers and open_clip, float32, eager, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.peers.modules import import_open_clip, make_torchvision_importable
from clipfast.config import ModelConfig
from tests.weights import Weights, open_clip_config

Tensor = torch.Tensor
Forward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def normalised(pixels: Tensor, config: ModelConfig) -> Tensor:
    """uint8 (N, 3, R, R) as the reference transform leaves it: ToTensor, then Normalize."""
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in (config.preprocess.mean, config.preprocess.std)
    )
    return (pixels.float() / 255 - mean) / std


def transformers_model(directory: Path) -> torch.nn.Module:
    """transformers' CLIPModel in float32."""
    make_torchvision_importable()
    from transformers import CLIPModel

    model: torch.nn.Module = CLIPModel.from_pretrained(directory, dtype=torch.float32)
    return model.eval()


def transformers_forward(directory: Path) -> Forward:
    """CLIPModel over a Hugging Face directory: (normalised pixels, padded ids) -> unit image and text rows."""
    model = transformers_model(directory)

    def forward(pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            images = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
            texts = model.text_projection(model.text_model(input_ids=ids.long()).pooler_output)
        return F.normalize(images, dim=-1), F.normalize(texts, dim=-1)

    return forward


def open_clip_forward(weights: Weights, config: ModelConfig) -> Forward:
    """open_clip.model.CLIP over the same weights: (normalised pixels, padded ids) -> unit image and text rows."""
    options = open_clip_config(config)["model_cfg"]
    model = import_open_clip().model.CLIP(**options).eval()
    model.load_state_dict(weights, strict=False)  # widens to float32

    def forward(pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            return model.encode_image(pixels, normalize=True), model.encode_text(
                ids.long(), normalize=True
            )

    return forward
