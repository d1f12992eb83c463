"""The reference package's README program runs with only its import changed, and gives the reference's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import clipfast
import clipfast.openai as clip
from clipfast.checkpoint import load_checkpoint
from tests.api.images import photo
from tests.model.textbook import Textbook


def test_readme_program(tiny_directory: Path, tmp_path: Path) -> None:
    photo(5).save(tmp_path / "CLIP.png")

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, preprocess = clip.load(tiny_directory, device=device, precision="fp32")

    image = preprocess(Image.open(tmp_path / "CLIP.png")).unsqueeze(0).to(device)
    text = clip.tokenize(["a diagram", "a dog", "a cat"]).to(device)

    with torch.no_grad():
        image_features = model.encode_image(image)
        text_features = model.encode_text(text)

        logits_per_image, logits_per_text = model(image, text)
        probs = logits_per_image.softmax(dim=-1).cpu().numpy()

    checkpoint = load_checkpoint(tiny_directory)
    textbook = Textbook(checkpoint.tensors, checkpoint.config)
    images = textbook.image(image.cpu())
    texts = textbook.text(text.cpu())
    assert torch.allclose(image_features.cpu().double(), images, rtol=0, atol=1e-4)
    assert torch.allclose(text_features.cpu().double(), texts, rtol=0, atol=1e-4)
    unit = [torch.nn.functional.normalize(rows, dim=-1) for rows in (images, texts)]
    logits = checkpoint.tensors["logit_scale"].double().exp() * unit[0] @ unit[1].T
    assert torch.allclose(logits_per_image.cpu().double(), logits, rtol=0, atol=1e-3)
    assert torch.equal(logits_per_text, logits_per_image.T)
    assert np.allclose(probs, logits.softmax(dim=-1).numpy(), atol=1e-4)


def test_surface_of_the_reference_package(tiny_directory: Path) -> None:
    assert clip.available_models() == [
        *("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64"),
        *("ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px"),
    ]
    tokens = clip.tokenize("hello world")
    assert tokens.dtype == torch.int32
    assert tokens[0, :4].tolist() == [49406, 3306, 1002, 49407]
    with pytest.raises(RuntimeError, match=r"102 tokens"):
        clip.tokenize("word " * 100)
    assert clip.tokenize("word " * 100, truncate=True)[0, -1] == 49407
    model, _ = clip.load(tiny_directory)
    assert model.eval().float().to("cpu").context_length == 77
    assert float(model.logit_scale.exp()) == pytest.approx(model.clipfast.logit_scale)
    assert isinstance(model.clipfast, clipfast.Model)
