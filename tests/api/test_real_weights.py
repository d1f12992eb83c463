"""The published weights give the published numbers. Needs CLIPFAST_WEIGHTS: a directory with the files named below."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import clipfast

FOLDER = Path(os.environ.get("CLIPFAST_WEIGHTS", ""))


def needed(name: str) -> Path:
    if not os.environ.get("CLIPFAST_WEIGHTS"):
        pytest.skip("CLIPFAST_WEIGHTS does not point at the published weights and images")
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"CLIPFAST_WEIGHTS has no {name}")
    return path


def test_vit_b_32_on_the_reference_picture() -> None:
    model = clipfast.load(needed("ViT-B-32.pt"), precision="fp32", device="cpu")
    images = model.encode_images([needed("CLIP.png")])
    texts = model.encode_texts(["a diagram", "a dog", "a cat"])
    probabilities = clipfast.similarity(images, texts, scale=model.logit_scale)[0]
    assert probabilities.tolist() == pytest.approx([0.9927937, 0.00421068, 0.00299572], abs=1e-4)


def test_hugging_face_b_32_on_two_cats() -> None:
    model = clipfast.load(needed("clip-vit-base-patch32"), precision="fp32", device="cpu")
    images = model.encode_images([needed("000000039769.jpg")])
    texts = model.encode_texts(["a photo of a cat", "a photo of a dog"])
    logits = model.logit_scale * images @ texts.T
    assert torch.allclose(logits[0], torch.tensor([24.5701, 19.3049]), rtol=0, atol=1e-3)
