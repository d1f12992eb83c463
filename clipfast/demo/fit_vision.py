"""First phase of training: the vision tower learns what scenes show, a linear classifier an attribute.

Naming every attribute of every image teaches a small transformer in minutes what contrast with captions alone, which
each claim an attribute or two, does not in an hour. The classifiers are thrown away.
"""

from __future__ import annotations

from math import cos, pi

import torch
import torch.nn.functional as F
from tqdm import tqdm

from clipfast.backends.reference import REFERENCE
from clipfast.checkpoint.folds import fold
from clipfast.demo.architecture import CONFIG, VISION
from clipfast.demo.batches import SceneBatches
from clipfast.demo.captions import ATTRIBUTES, encode_scenes
from clipfast.demo.digits import Handwriting
from clipfast.model import encode_vision
from clipfast.parameters import VisionTransformer

Tensor = torch.Tensor

BATCH_SIZE = 64
KERNEL = "visual.conv1.weight"
STREAM = 7
MUON_LEARNING_RATE = 0.01
ADAM_LEARNING_RATE = 7e-4
WARMUP_STEPS = 40
# What is hard to tell weighs more.
WEIGHTS = {
    "kind": 0.5,
    "subject": 3.0,
    "colour": 1.0,
    "background": 0.5,
    "size": 0.5,
    "column": 0.5,
    "row": 0.5,
}


def fit_vision(tensors: dict[str, Tensor], handwriting: Handwriting, seed: int, steps: int) -> None:
    """Trains the "visual." tensors in place (bfloat16 products, float32 weights and stream)."""
    torch.manual_seed(seed)
    heads = {name: torch.nn.Linear(CONFIG.embed_dim, len(v)) for name, v in ATTRIBUTES.items()}
    vision = {name: t.requires_grad_() for name, t in tensors.items() if name.startswith("visual.")}
    kernel = vision.pop(KERNEL)
    vision[KERNEL] = kernel.detach().flatten(1).requires_grad_()  # a matrix, as Muon takes it
    matrices = [t for name, t in vision.items() if _is_matrix(name, t)]
    others = [t for name, t in vision.items() if not _is_matrix(name, t)]
    others += [parameter for head in heads.values() for parameter in head.parameters()]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=MUON_LEARNING_RATE, weight_decay=0.01),
        torch.optim.AdamW(others, lr=ADAM_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps))
        for optimizer in optimizers
    ]
    batches = SceneBatches(
        handwriting,
        lambda index: variety(index / steps),
        stream=seed + STREAM,
        size=BATCH_SIZE,
        image_size=VISION.image_size,
    )
    for batch in tqdm(batches.prefetch(steps), total=steps, desc="vision", mininterval=5):
        trained = tensors | {KERNEL: vision[KERNEL].view_as(kernel)}
        embedded = embed_pixels(trained, batch.pixels)
        labels = torch.from_numpy(encode_scenes(batch.scenes))
        loss = attribute_loss(heads, embedded, labels)
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        torch.nn.utils.clip_grad_norm_([*matrices, *others], 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    tensors[KERNEL] = vision[KERNEL].view_as(kernel)
    for name in vision:
        tensors[name] = tensors[name].detach()


def _is_matrix(name: str, tensor: Tensor) -> bool:
    """Whether Muon trains it: the products of the blocks and of the patches."""
    return name == KERNEL or (".resblocks." in name and tensor.ndim == 2)


def embed_pixels(tensors: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """(B, 3, R, R) uint8 -> (B, E) float32, not normalised."""
    p = fold(tensors, CONFIG, torch.bfloat16).vision
    assert isinstance(p, VisionTransformer)
    return encode_vision(p, VISION, REFERENCE, pixels).float()


def attribute_loss(heads: dict[str, torch.nn.Linear], embedded: Tensor, labels: Tensor) -> Tensor:
    """The weighted sum of each attribute's cross-entropy. labels: (B, attributes) int64."""
    losses = [
        WEIGHTS[name] * F.cross_entropy(head(embedded), labels[:, column])
        for column, (name, head) in enumerate(heads.items())
    ]
    return torch.stack(losses).sum()


def variety(progress: float) -> float:
    """How varied the scenes are at this fraction of training: centred on plain grounds first, anything at last."""
    return min(1.0, max(0.0, (progress - 0.05) / 0.3))


def learning_rate(step: int, steps: int) -> float:
    """The share of the peak: a linear warm-up, then a cosine to a hundredth."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    return 0.5 * (1 + cos(pi * (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS))) + 0.01
