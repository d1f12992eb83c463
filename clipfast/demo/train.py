"""Trains the demo model on images that it draws itself: `python -m clipfast.demo.train`, minutes on two cores.

The towers are the ones that serve: every step folds the canonical weights and runs `clipfast.model` on the reference
operations in float32, so what is trained is what is loaded.
"""

from __future__ import annotations

import argparse
import sys
from math import cos, log, pi
from pathlib import Path
from time import perf_counter, process_time

import torch
import torch.nn.functional as F
from tqdm import tqdm

import clipfast
from clipfast.backends.reference import REFERENCE
from clipfast.checkpoint.folds import fold
from clipfast.demo.architecture import CONFIG, TEXT, VISION, WEIGHTS, initial_tensors, save_weights
from clipfast.demo.batches import Batch, Batches, Vocabulary
from clipfast.demo.card import Metrics, write_card
from clipfast.demo.digits import load_handwriting, write_samples
from clipfast.demo.evaluate import evaluate
from clipfast.model import encode_text, encode_vision
from clipfast.parameters import VisionTransformer

Tensor = torch.Tensor

SEED = 20_26
STEPS = 3000
BATCH_SIZE = 64
THREADS = 2
MUON_LEARNING_RATE = 0.02
ADAM_LEARNING_RATE = 2e-3
WARMUP_STEPS = 40
MAX_LOGIT_SCALE = 100.0
SAMPLE_DIGITS = (2, 3, 5, 7)


def train(seed: int = SEED, steps: int = STEPS) -> dict[str, Tensor]:
    """Trained canonical tensors, float32; rows of the token embedding that no caption uses stay as they began."""
    vocabulary = Vocabulary(seed)
    handwriting, _ = load_handwriting()
    batches = Batches(
        handwriting,
        vocabulary,
        lambda step: variety(step / steps),
        seed=seed,
        size=BATCH_SIZE,
        image_size=VISION.image_size,
    )
    tensors = initial_tensors(seed)
    all_tokens = tensors["token_embedding.weight"]
    tensors["token_embedding.weight"] = all_tokens[vocabulary.tokens]
    for tensor in tensors.values():
        tensor.requires_grad_()
    _fit(tensors, batches, steps)
    trained = {name: tensor.detach() for name, tensor in tensors.items()}
    all_tokens[vocabulary.tokens] = trained["token_embedding.weight"]
    return trained | {"token_embedding.weight": all_tokens}


def contrastive_loss(tensors: dict[str, Tensor], batch: Batch) -> Tensor:
    """CLIP's symmetric cross-entropy with several captions an image.

    Each caption competes with the captions that are false of its image, and with the images that it is false of:
    a caption that happens to be true of another image is left out of both sums.
    """
    constant_scale = {"logit_scale": tensors["logit_scale"].detach()}
    p = fold({**tensors, **constant_scale}, CONFIG, torch.float32)
    assert isinstance(p.vision, VisionTransformer)
    images = F.normalize(encode_vision(p.vision, VISION, REFERENCE, batch.pixels), dim=-1)
    texts = F.normalize(encode_text(p.text, TEXT, REFERENCE, batch.texts), dim=-1)
    logits = tensors["logit_scale"].exp() * images @ texts.T
    own = torch.arange(logits.shape[1]).view(len(logits), -1)
    true = logits.gather(1, own)
    false = logits.masked_fill(batch.truth, -torch.inf)
    by_image = F.softplus(false.logsumexp(dim=1, keepdim=True) - true)
    by_text = F.softplus(false.logsumexp(dim=0)[own] - true)
    return (by_image.mean() + by_text.mean()) / 2


def variety(progress: float) -> float:
    """How varied the scenes are at this fraction of training: centred on plain grounds first, anything at last.

    From varied scenes alone the small transformer takes many times as long to tell one shape from another.
    """
    return min(1.0, max(0.0, (progress - 0.05) / 0.45))


def _fit(tensors: dict[str, Tensor], batches: Batches, steps: int) -> None:
    optimizers = _optimizers(tensors)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate(step, steps))
        for optimizer in optimizers
    ]
    progress = tqdm(batches.prefetch(steps), total=steps, desc="training", mininterval=5)
    for step, batch in enumerate(progress):
        loss = contrastive_loss(tensors, batch)
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        torch.nn.utils.clip_grad_norm_(tensors.values(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        with torch.no_grad():
            tensors["logit_scale"].clamp_(max=log(MAX_LOGIT_SCALE))
        if step % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


def _optimizers(tensors: dict[str, Tensor]) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks (it learns shapes in a fraction of the steps), AdamW for all else."""
    matrices = [t for name, t in tensors.items() if ".resblocks." in name and t.ndim == 2]
    others = [t for name, t in tensors.items() if ".resblocks." not in name or t.ndim != 2]
    return [
        torch.optim.Muon(matrices, lr=MUON_LEARNING_RATE, weight_decay=0.01),
        torch.optim.AdamW(others, lr=ADAM_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _learning_rate(step: int, steps: int) -> float:
    """The share of the peak: a linear warm-up, then a cosine to zero."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    return 0.5 * (1 + cos(pi * (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)))


def main(arguments: list[str] | None = None) -> None:
    """Trains, stores the weights, measures them through the public API and writes the card."""
    parser = argparse.ArgumentParser(prog="python -m clipfast.demo.train", description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="folder of the weights")
    options = parser.parse_args(arguments)
    torch.set_num_threads(THREADS)
    start, cpu_start = perf_counter(), process_time()
    folder: Path = options.output
    save_weights(train(options.seed, options.steps), folder)
    seconds, cpu_seconds = perf_counter() - start, process_time() - cpu_start
    handwriting, held_out = load_handwriting()
    metrics: Metrics = {
        "command": " ".join(["python -m clipfast.demo.train", *(arguments or sys.argv[1:])]),
        "seed": options.seed,
        "steps": options.steps,
        "batch_size": BATCH_SIZE,
        "minutes": round(seconds / 60, 1),
        "cpu_minutes": round(cpu_seconds / 60, 1),
        "threads": THREADS,
        "torch": torch.__version__,
        "held_out": evaluate(clipfast.load(folder, precision="fp32"), held_out),
    }
    write_card(metrics, handwriting, held_out, folder)
    write_samples(held_out, SAMPLE_DIGITS)
    for name, value in metrics["held_out"].items():
        print(f"{name:<46} {value:6.1%}")


if __name__ == "__main__":
    main()
