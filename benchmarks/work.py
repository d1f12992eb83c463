"""What is measured: models, inputs that are the same for everyone, and the arithmetic that they need."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipfast.config import ARCHITECTURES, ModelConfig, ResNetConfig, VisionTransformerConfig
from tests.weights import tiny, tiny_resnet

Task = Literal["images", "texts", "captions", "prompts", "similarity", "top_k", "model_load"]
# texts: captions with a number each, none of them alike. captions: those of captions.txt, as web captions are.
# prompts: what a zero-shot classifier of 100 ImageNet classes encodes, 80 templates a class.
TEXT_TASKS: tuple[Task, ...] = ("texts", "captions", "prompts")

MODELS: dict[str, ModelConfig] = {
    name: ARCHITECTURES[name].with_activation("quick_gelu")
    for name in ("ViT-B-32", "ViT-B-16", "ViT-L-14", "RN50")
}
MEASURED = tuple(MODELS)
MODELS |= {"tiny": tiny(), "tiny-resnet": tiny_resnet()}  # for the tests of this package
PRECISIONS = ("fp32", "bf16", "int8")
EMBED_DIM = 512
K = 10
SCALE = 100.0
# Rows of every batch that are compared with float64.
ORACLE_ROWS = 4


@dataclass(frozen=True)
class Work:
    """One cell, the same for ours and for every peer.

    weights: folder in open_clip's layout, or "demo"; unused by similarity and top_k.
    batch: images, texts or queries a call. gallery: rows searched (similarity: classes).
    """

    task: Task
    precision: str
    batch: int
    threads: int
    model: str = ""
    weights: str = ""
    gallery: int = 0


def has_resnet(work: Work) -> bool:
    """Whether the vision tower of the work's model is a ResNet."""
    return work.model in MODELS and isinstance(MODELS[work.model].vision, ResNetConfig)


def pixels(count: int, size: int) -> npt.NDArray[np.uint8]:
    """(count, 3, size, size): smooth colours under grain, so that activations vary as they do over photographs."""
    images = np.empty((count, 3, size, size), dtype=np.uint8)
    for index in range(count):
        random = np.random.default_rng(index)
        coarse = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
        grain = random.normal(0, 8, (size, size, 3))
        images[index] = np.clip(np.asarray(smooth) + grain, 0, 255).transpose(2, 0, 1)
    return images


def normalised(images: npt.NDArray[np.uint8], config: ModelConfig) -> npt.NDArray[np.float32]:
    """What a textbook forward reads: (N, 3, R, R) float32. Peers get it ready-made, outside their time."""
    mean = np.asarray(config.preprocess.mean, np.float32)[:, None, None]
    std = np.asarray(config.preprocess.std, np.float32)[:, None, None]
    return (images.astype(np.float32) / 255 - mean) / std


def texts(task: Task, count: int) -> list[str]:
    """The first `count` texts of a task."""
    return _TEXTS[task](count)


def _captions(count: int) -> list[str]:
    return Path(__file__).with_name("captions.txt").read_text(encoding="utf-8").splitlines()[:count]


def _prompts(count: int) -> list[str]:
    from clipfast.templates import IMAGENET, IMAGENET_CLASSNAMES

    names = IMAGENET_CLASSNAMES[: -(-count // len(IMAGENET))]
    return [template.format(name) for name in names for template in IMAGENET][:count]


def _numbered(count: int) -> list[str]:
    """Captions of the lengths that web captions have: 6 to 30 tokens, 13 on average."""
    subjects = ("a red bicycle", "two dogs", "an old lighthouse", "a bowl of soup", "a violinist")
    places = (
        "",
        " by the sea",
        " in front of a brick wall at night",
        " on a wooden table",
        " in snow",
    )
    details = (
        "",
        ", black and white",
        ", seen from far above on a clear summer morning, with people",
    )
    return [
        f"{subjects[i % 5]}{places[i // 5 % 5]}{details[i // 25 % 3]} {i}" for i in range(count)
    ]


_TEXTS = {"texts": _numbered, "captions": _captions, "prompts": _prompts}


@cache
def token_ids(task: Task, count: int, context_length: int) -> npt.NDArray[np.int32]:
    """(count, context_length): the texts as the reference pads them. Peers get them outside their time."""
    from clipfast.inputs import load_tokenizer

    return load_tokenizer().tokenize(texts(task, count), context_length, truncate=False)


def embeddings(count: int, seed: int) -> npt.NDArray[np.float32]:
    """(count, EMBED_DIM) unit rows."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((count, EMBED_DIM), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def flops(work: Work) -> float | None:
    """Floating-point operations of one call by the textbook, padding left out; None where bytes are what counts.

    Nobody is credited for doing less: the same number divides everyone's time.
    """
    if work.task == "images":
        return work.batch * vision_flops(MODELS[work.model])
    if work.task in TEXT_TASKS:
        config = MODELS[work.model]
        lengths = token_ids(work.task, work.batch, config.text.context_length).argmax(axis=1) + 1
        t = config.text
        towers = (_transformer(int(n), t.width, t.layers, t.mlp_width) for n in lengths)
        return sum(towers) + 2.0 * work.batch * t.width * config.embed_dim
    if work.task in ("similarity", "top_k"):
        return 2.0 * work.batch * work.gallery * EMBED_DIM
    return None


def vision_flops(config: ModelConfig) -> float:
    """Operations (two a multiply-add) of one image through the vision tower."""
    vision = config.vision
    if isinstance(vision, ResNetConfig):
        return _resnet(vision, config.embed_dim)
    assert isinstance(vision, VisionTransformerConfig)
    patches = 2.0 * 3 * vision.patch_size**2 * vision.width * vision.grid**2
    blocks = _transformer(vision.tokens, vision.width, vision.layers, vision.mlp_width)
    return patches + blocks + 2.0 * vision.width * config.embed_dim


def _transformer(tokens: int, width: int, layers: int, mlp_width: int) -> float:
    matrices = 2.0 * tokens * (4 * width**2 + 2 * width * mlp_width)
    return layers * (matrices + 4.0 * tokens**2 * width)


def _resnet(vision: ResNetConfig, embed_dim: int) -> float:
    width, side = vision.width, vision.image_size // 2
    total = 2.0 * side**2 * 9 * (3 * width // 2 + width // 2 * width // 2 + width // 2 * width)
    side //= 2
    channels = width
    for stage, blocks in enumerate(vision.blocks):
        planes = width * 2**stage
        for block in range(blocks):
            first_side = side
            if stage > 0 and block == 0:
                side //= 2
            total += 2.0 * first_side**2 * (channels * planes + 9 * planes**2)
            total += 2.0 * side**2 * planes * 4 * planes
            if block == 0:
                total += 2.0 * side**2 * channels * 4 * planes
            channels = 4 * planes
    tokens = vision.grid**2 + 1  # one query, all keys and values
    pool = tokens * 2 * channels**2 + 2 * tokens * channels + channels**2 + channels * embed_dim
    return total + 2.0 * pool


def gallery_bytes(work: Work) -> float | None:
    """Bytes of the gallery, which a search must read once; None for other tasks."""
    if work.task != "top_k":
        return None
    return float(work.gallery * EMBED_DIM * (4 if work.precision == "fp32" else 2))
