"""Every published family, in every layout it exists in: the same bits, and the reference implementations' embeddings.

B/32 and RN50 are whole and in all their layouts; the others have two blocks a transformer (one a ResNet stage) at the
real widths and come in two layouts. `slow` runs every family whole and in all of them.
"""

from __future__ import annotations

import ctypes
import gc
import shutil
from pathlib import Path

import pytest
import torch

import clipfast
from clipfast.config import ARCHITECTURES, ModelConfig, ResNetConfig
from tests.parity.references import normalised, open_clip_forward, transformers_forward
from tests.tolerances import REFERENCE_COSINE, REFERENCE_MAX_ABS
from tests.weights import (
    Weights,
    halve_like_openai,
    load_arguments,
    random_weights,
    reduced,
    round_like_openai,
    save_as,
)

OPENAI_FAMILIES = (
    *("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336"),
    *("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64"),
)
OTHER_FAMILIES = ("ViT-B-16-plus-240", "ViT-H-14", "ViT-g-14", "ViT-bigG-14")
FAMILIES = OPENAI_FAMILIES + OTHER_FAMILIES
Embeddings = tuple[torch.Tensor, torch.Tensor]
WHOLE_IN_EVERY_RUN = ("ViT-B-32", "RN50")

TEXTS = ["a diagram", "a photo of a dog.", "", "the quick brown fox " * 12]


def family(name: str) -> ModelConfig:
    config = ARCHITECTURES[name]
    return config.with_activation("quick_gelu") if name in OPENAI_FAMILIES else config


def layouts_of(config: ModelConfig) -> list[str]:
    own = ["openai_jit"] if config.name in OPENAI_FAMILIES else ["open_clip_directory"]
    hf = [] if isinstance(config.vision, ResNetConfig) else ["hf_sharded"]
    return [*own, "state_dict", "open_clip_safetensors", "custom_text_linear", *hf]


def pixels_for(config: ModelConfig, count: int) -> torch.Tensor:
    """Smooth random images: noise has no structure that a mistake in the patch order could disturb."""
    generator = torch.Generator().manual_seed(7)
    coarse = torch.rand(count, 3, 7, 7, generator=generator)
    size = config.vision.image_size
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic")
    return (255 * smooth).clamp(0, 255).to(torch.uint8)


def check_family(config: ModelConfig, weights: Weights, layouts: list[str], folder: Path) -> None:
    pixels = pixels_for(config, 2)
    ids = None
    first = None
    for layout in layouts:
        source = save_as(layout, weights, config, folder / layout)
        model = clipfast.load(source, precision="fp32", **load_arguments(layout, config))
        got = model.encode_images(pixels), model.encode_texts(TEXTS)
        ids = torch.from_numpy(model.tokenize(TEXTS))
        shutil.rmtree(folder / layout)
        if first is None:
            first = got
        assert torch.equal(got[0], first[0]), layout
        assert torch.equal(got[1], first[1]), layout
        del model
        free_memory()
    assert first is not None
    assert ids is not None
    inputs = normalised(pixels, config), ids
    compare("open_clip", config, first, open_clip_forward(weights, config)(*inputs))
    if not isinstance(config.vision, ResNetConfig):
        directory = save_as("hf", weights, config, folder / "reference")
        weights.clear()  # makes room for the largest
        compare("transformers", config, first, transformers_forward(directory)(*inputs))
        shutil.rmtree(directory)


def compare(name: str, config: ModelConfig, ours: Embeddings, truth: Embeddings) -> None:
    for got, expected in zip(ours, truth, strict=True):
        difference = float((got - expected).abs().max())
        cosine = float(torch.nn.functional.cosine_similarity(got, expected).min())
        print(f"{config.name} against {name}: max-abs {difference:.1e}, cosine {cosine:.8f}")
        assert difference <= REFERENCE_MAX_ABS, name
        assert cosine >= REFERENCE_COSINE, name
    free_memory()


def free_memory() -> None:
    """Of models that are gone, what the C library kept too: gigabytes."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


@pytest.mark.parametrize("name", FAMILIES)
def test_family(name: str, tmp_path: Path) -> None:
    config, layouts = family(name), layouts_of(family(name))
    if name not in WHOLE_IN_EVERY_RUN:
        config, layouts = reduced(config), [layouts[0], "open_clip_safetensors"]
    check_family(config, round_like_openai(random_weights(config, seed=3)), layouts, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in WHOLE_IN_EVERY_RUN])
def test_family_at_full_depth(name: str, tmp_path: Path) -> None:
    """The weights in float16: of the largest's 2.5 billion, these and a model in float32 take 15 GB."""
    config = family(name)
    weights = halve_like_openai(random_weights(config, seed=3))
    check_family(config, weights, layouts_of(config), tmp_path)


def test_long_positional_table_comes_from_the_shape(tmp_path: Path) -> None:
    config = reduced(family("ViT-B-32"), context_length=248)
    weights = random_weights(config, seed=3)
    source = save_as("open_clip_directory", weights, config, tmp_path)
    model = clipfast.load(source, precision="fp32")
    long_text = "word " * 200
    got = model.encode_texts([long_text])
    ids = torch.from_numpy(model.tokenize([long_text]))
    assert ids.shape == (1, 248)
    truth = open_clip_forward(weights, config)(normalised(pixels_for(config, 1), config), ids)[1]
    assert float((got - truth).abs().max()) <= REFERENCE_MAX_ABS
