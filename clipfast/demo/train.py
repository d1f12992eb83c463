"""Trains the demo model on images that it draws itself: `python -m clipfast.demo.train`, minutes on two cores.

The towers are the ones that serve: every step folds the canonical weights and runs `clipfast.model` on the reference
operations. First the vision tower learns what scenes show, then the text tower which captions are true of them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import perf_counter

import torch

import clipfast
from clipfast.demo import fit_text, fit_vision
from clipfast.demo.architecture import WEIGHTS, initial_tensors, save_weights
from clipfast.demo.card import Metrics, write_card
from clipfast.demo.digits import load_handwriting, write_samples
from clipfast.demo.evaluate import evaluate

SEED = 0
VISION_STEPS = 5000
TEXT_STEPS = 2000
THREADS = 2
SAMPLE_DIGITS = (2, 3, 5, 7)


def train(
    seed: int = SEED, vision_steps: int = VISION_STEPS, text_steps: int = TEXT_STEPS
) -> dict[str, torch.Tensor]:
    """Trained canonical tensors, float32; rows of the token embedding that no caption uses stay as they began."""
    handwriting, _ = load_handwriting()
    tensors = initial_tensors(seed)
    fit_vision.fit_vision(tensors, handwriting, seed, vision_steps)
    fit_text.fit_text(tensors, handwriting, seed, text_steps)
    return tensors


def main(arguments: list[str] | None = None) -> None:
    """Trains, stores the weights, measures them through the public API and writes the card."""
    parser = argparse.ArgumentParser(prog="python -m clipfast.demo.train", description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--vision-steps", type=int, default=VISION_STEPS)
    parser.add_argument("--text-steps", type=int, default=TEXT_STEPS)
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="folder of the weights")
    options = parser.parse_args(arguments)
    torch.set_num_threads(THREADS)
    start = perf_counter()
    save_weights(train(options.seed, options.vision_steps, options.text_steps), options.output)
    seconds = perf_counter() - start
    command = ["python -m clipfast.demo.train", *(sys.argv[1:] if arguments is None else arguments)]
    report(
        options.output,
        {
            "command": " ".join(command),
            "seed": options.seed,
            "vision_steps": options.vision_steps,
            "text_steps": options.text_steps,
            "minutes": round(seconds / 60, 1),
            "threads": THREADS,
            "torch": torch.__version__,
            "held_out": {},
        },
    )


def report(folder: Path, metrics: Metrics) -> None:
    """Measures the weights in `folder` on held-out data and writes metrics.json, the card and the sample digits."""
    handwriting, held_out = load_handwriting()
    metrics["held_out"] = evaluate(clipfast.load(folder, precision="fp32"), held_out)
    write_card(metrics, handwriting, held_out, folder)
    write_samples(held_out, SAMPLE_DIGITS)
    for name, value in metrics["held_out"].items():
        print(f"{name:<46} {value:6.1%}")


if __name__ == "__main__":
    main()
