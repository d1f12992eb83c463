"""clipfast: the fastest exact way from images and texts to CLIP embeddings.

    model = clipfast.load("ViT-B/32")
    image_embeddings = model.encode_images(["cat.jpg", "dog.jpg"])      # (2, 512) float32, unit rows
    text_embeddings = model.encode_texts(["a cat", "a dog"])
    probabilities = clipfast.similarity(image_embeddings, text_embeddings, scale=model.logit_scale)

Names are imported on first use, so that `import clipfast` and the command line answer at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipfast import bulk, export, inputs, templates
    from clipfast.api import Model, load
    from clipfast.checkpoint import available_models
    from clipfast.default_model import encode_images, encode_texts, set_default_model
    from clipfast.errors import (
        CheckpointError,
        ClipfastError,
        ConfigurationError,
        DeviceMemoryError,
        ForkedProcessError,
        InputError,
        UnsupportedError,
    )
    from clipfast.scoring import contrastive_loss, similarity, top_k
    from clipfast.zero_shot import ZeroShotClassifier

_HOME = {
    "Model": "api",
    "load": "api",
    "available_models": "checkpoint",
    "encode_images": "default_model",
    "encode_texts": "default_model",
    "set_default_model": "default_model",
    "CheckpointError": "errors",
    "ClipfastError": "errors",
    "ConfigurationError": "errors",
    "DeviceMemoryError": "errors",
    "ForkedProcessError": "errors",
    "InputError": "errors",
    "UnsupportedError": "errors",
    "contrastive_loss": "scoring",
    "similarity": "scoring",
    "top_k": "scoring",
    "ZeroShotClassifier": "zero_shot",
}
_ROOMS = ("bulk", "export", "inputs", "templates")

__all__ = [
    "CheckpointError",
    "ClipfastError",
    "ConfigurationError",
    "DeviceMemoryError",
    "ForkedProcessError",
    "InputError",
    "Model",
    "UnsupportedError",
    "ZeroShotClassifier",
    "available_models",
    "bulk",
    "contrastive_loss",
    "encode_images",
    "encode_texts",
    "export",
    "inputs",
    "load",
    "set_default_model",
    "similarity",
    "templates",
    "top_k",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"clipfast.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(f"clipfast.{_HOME[name]}"), name)
    raise AttributeError(f"module 'clipfast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
