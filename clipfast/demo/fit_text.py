"""Second phase of training: the text tower and the image projection learn which caption is true of which image.

CLIP's symmetric cross-entropy over a pool of drawn images whose embeddings are computed once: the rest of the vision
tower is left as the first phase made it. Source of the loss: Radford et al. 2021, arXiv:2103.00020, figure 3.
"""

from __future__ import annotations

from math import cos, log, pi

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from clipfast.backends.reference import REFERENCE
from clipfast.checkpoint.folds import fold_text
from clipfast.demo.architecture import CONFIG, TEXT, VISION
from clipfast.demo.batches import SceneBatches, Vocabulary
from clipfast.demo.captions import compose_caption, encode_claims, encode_scenes, true_pairs
from clipfast.demo.digits import Handwriting
from clipfast.demo.fit_vision import embed_pixels
from clipfast.demo.scenes import Scene
from clipfast.model import TextRows, encode_text

Tensor = torch.Tensor

POOL_BATCHES = 128
POOL_BATCH_SIZE = 64
POOL_STREAM = 9
CAPTION_STREAM = 11
VOCABULARY_SEED = 2026
BATCH_SIZE = 192
LEARNING_RATE = 1.5e-3
WARMUP_STEPS = 50
FIRST_LOGIT_SCALE = 30.0
MAX_LOGIT_SCALE = 100.0


def fit_text(tensors: dict[str, Tensor], handwriting: Handwriting, seed: int, steps: int) -> None:
    """Trains every tensor that is not "visual.", and "visual.proj", in place."""
    vocabulary = Vocabulary(seed + VOCABULARY_SEED)
    scenes, embedded = _pool(tensors, handwriting, seed)
    attributes = encode_scenes(scenes)
    text = {n: t.clone() for n, t in tensors.items() if not n.startswith("visual.")}
    all_tokens = text["token_embedding.weight"]
    text["token_embedding.weight"] = all_tokens[vocabulary.tokens].clone()
    text["logit_scale"] = torch.tensor(log(FIRST_LOGIT_SCALE))
    # An (E, E) map after the projection; multiplied into it at the end.
    turn = torch.eye(CONFIG.embed_dim)
    trained = [*text.values(), turn]
    for tensor in trained:
        tensor.requires_grad_()
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _learning_rate(step, steps)
    )
    for step in tqdm(range(steps), desc="text", mininterval=5):
        rng = np.random.default_rng([seed + CAPTION_STREAM, step])
        chosen = rng.choice(len(scenes), BATCH_SIZE, replace=False)
        captions = [compose_caption(scenes[i], rng) for i in chosen]
        truth = torch.from_numpy(true_pairs(attributes[chosen], encode_claims(captions)))
        rows = vocabulary.pack([caption.text for caption in captions])
        texts = embed_texts(text, rows)
        images = F.normalize(embedded[torch.from_numpy(chosen)] @ turn, dim=-1)
        loss = contrastive_loss(text["logit_scale"].exp() * images @ texts.T, truth)
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        with torch.no_grad():
            text["logit_scale"].clamp_(max=log(MAX_LOGIT_SCALE))
    tensors.update({name: tensor.detach() for name, tensor in text.items()})
    all_tokens[vocabulary.tokens] = tensors["token_embedding.weight"]
    tensors["token_embedding.weight"] = all_tokens
    tensors["visual.proj"] = tensors["visual.proj"] @ turn.detach()


def contrastive_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy; a caption that happens to be true of another image is left out of both sums.

    Args:
        logits: (B, B) image i against caption j, which was composed for image j.
        truth: (B, B) bool, whether caption j is true of image i.
    """
    own = logits.diagonal()
    false = logits.masked_fill(truth, -torch.inf)
    by_image = F.softplus(false.logsumexp(dim=1) - own)
    by_text = F.softplus(false.logsumexp(dim=0) - own)
    return (by_image.mean() + by_text.mean()) / 2


def embed_texts(tensors: dict[str, Tensor], rows: TextRows) -> Tensor:
    """(B, E) float32 unit rows."""
    p = fold_text(tensors, TEXT, torch.bfloat16)
    return F.normalize(encode_text(p, TEXT, REFERENCE, rows).float(), dim=-1)


def _pool(
    tensors: dict[str, Tensor], handwriting: Handwriting, seed: int
) -> tuple[list[Scene], Tensor]:
    """Scenes and their image embeddings (N, E), not normalised."""
    batches = SceneBatches(
        handwriting,
        lambda _: 1.0,
        stream=seed + POOL_STREAM,
        size=POOL_BATCH_SIZE,
        image_size=VISION.image_size,
    )
    scenes: list[Scene] = []
    rows = []
    with torch.no_grad():
        for batch in batches.prefetch(POOL_BATCHES):
            scenes += batch.scenes
            rows.append(embed_pixels(tensors, batch.pixels))
    return scenes, torch.cat(rows)


def _learning_rate(step: int, steps: int) -> float:
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    return 0.5 * (1 + cos(pi * (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS))) + 0.005
