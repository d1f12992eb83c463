"""The demo model's card, written by its training from what it measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict

from clipfast.demo import fit_text, fit_vision
from clipfast.demo.architecture import TEXT, VISION, WEIGHTS
from clipfast.demo.digits import Handwriting
from clipfast.demo.scenes import BACKGROUNDS, COLOURS, SHAPES, UNSEEN_PAIRS

_DESCRIPTIONS = {
    "shapes_and_colours": "`a red circle`, 100 labels, 1,000 images",
    "shapes_and_colours_never_paired_in_training": "the same, the ten pairs that training never drew",
    "shapes_and_colours_default_template": "`a photo of a red circle.`, the default template",
    "shapes_and_colours_imagenet_templates": "the 80 published ImageNet templates, averaged",
    "digits": "`a handwritten digit seven`, 10 labels",
    "digits_bare_label": "`seven`, 10 labels",
    "backgrounds": "`a shape on a striped background`, 8 labels",
    "left_or_right": "`a shape on the left`, 2 labels",
    "text_search_precision_at_10": "`a red circle` among 1,000 images, ten of which are right",
}


class Metrics(TypedDict):
    """metrics.json: how the weights were made and what was measured on held-out data (accuracies in [0, 1])."""

    command: str
    seed: int
    vision_steps: int
    text_steps: int
    minutes: float
    threads: int
    torch: str
    held_out: dict[str, float]


def read_metrics(folder: Path = WEIGHTS) -> Metrics:
    """The metrics that training stored beside the weights."""
    metrics: Metrics = json.loads((folder / "metrics.json").read_text())
    return metrics


def write_card(metrics: Metrics, train: Handwriting, held_out: Handwriting, folder: Path) -> None:
    """Writes metrics.json and README.md, the model card, beside the weights."""
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    rows = "\n".join(
        f"| {name.replace('_', ' ')} | {_DESCRIPTIONS[name]} | {value:.1%} |"
        for name, value in metrics["held_out"].items()
    )
    size = (folder / "model.safetensors").stat().st_size
    unseen = ", ".join(sorted(f"{colour} {shape}" for colour, shape in UNSEEN_PAIRS))
    card = _CARD.format(
        rows=rows,
        unseen=unseen,
        megabytes=size / 1e6,
        shapes=", ".join(SHAPES),
        colours=", ".join(COLOURS),
        backgrounds=", ".join(BACKGROUNDS),
        train_digits=len(train.labels),
        held_out_digits=len(held_out.labels),
        vision_batch=fit_vision.BATCH_SIZE,
        text_batch=fit_text.BATCH_SIZE,
        images=metrics["vision_steps"] * fit_vision.BATCH_SIZE,
        vision=VISION,
        text=TEXT,
        **{name: value for name, value in metrics.items() if name != "held_out"},
    )
    (folder / "README.md").write_text(card)


_CARD = """\
# The demo model

A tiny CLIP that knows one small world: ten shapes, ten colours, eight backgrounds, three sizes, nine places and the
handwritten digits. It exists so that every command, example and precision test runs offline on inputs that mean
something. It is no model of photographs.

| | |
|---|---|
| Vision | {vision.image_size} x {vision.image_size} pixels in patches of {vision.patch_size}; {vision.layers} layers, \
width {vision.width}, {vision.heads} heads |
| Text | CLIP's own vocabulary of {text.vocab_size} tokens, causal; {text.layers} layers, width {text.width}, \
{text.heads} heads |
| Activation | GELU |
| Stored | `model.safetensors`, fp16, open_clip's built-in layout with its `open_clip_config.json`; {megabytes:.1f} MB |

## Training

`{command}`: seed {seed}, {minutes:.0f} minutes on {threads} CPU threads with torch {torch}.
First {vision_steps} steps of {vision_batch} new images ({images:,} in all) teach the vision tower to name what scenes
show, which grow from plain and centred to varied; then {text_steps} steps of {text_batch} captions teach the text
tower and the image projection by CLIP's symmetric contrastive loss. The seed fixes every image, caption and first
weight; another machine rounds differently, so its weights and the last digits of its accuracies differ.

Data, all made or read by the training script:

- Drawn scenes, each new: one of {shapes}; in {colours}; on a background of {backgrounds}; small, medium or large;
  in one of nine places.
- Handwriting: {train_digits:,} of the 1,797 digits that scikit-learn ships (E. Alpaydin and C. Kaynak, Optical
  Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998, CC BY 4.0), drawn as scenes are.
- Captions composed from what a scene shows, in many phrasings: `a photo of a small red star at the top`, `the digit
  seven on a black background`.

Never drawn in training, so that naming them takes composing two words: {unseen}.

## Held-out accuracy

Measured in fp32 through `clipfast.load("demo")` on images drawn from another seed and on the {held_out_digits}
digits that training never saw; a test repeats every line.

| Measure | Prompts | |
|---|---|---|
{rows}

## Limits

Only the words that captions use were trained. Every other token of the vocabulary still has its random first embedding:
it means nothing, and a text made of such words gets an embedding, but no meaning.
"""
