"""transformers, eager, with its SDPA attention."""

from __future__ import annotations

from functools import cache

import torch

from benchmarks.peers import Prepared
from benchmarks.peers.modules import longest, make_torchvision_importable, tower, tower_inputs
from benchmarks.work import Work


def requires(work: Work) -> tuple[str, ...]:
    return ("transformers",)


def variants(work: Work) -> tuple[str, ...]:
    """Texts padded to the longest of the batch, as `padding=True` does, or to 77 as the reference."""
    return ("padded to longest", "padded to 77") if work.task == "texts" else ("eager",)


def prepare(work: Work, variant: str) -> Prepared:
    torch.set_num_threads(work.threads)
    if work.task == "model_load":
        return _load(work)
    module = _tower(work)
    length = longest(work) if variant == "padded to longest" else None
    values = tower_inputs(work, length=length)

    def call() -> torch.Tensor:
        with torch.inference_mode():
            return module(values)

    return Prepared(call, work.batch, lambda: call().float().numpy())


@cache
def _tower(work: Work) -> torch.nn.Module:
    return tower(work)


def _load(work: Work) -> Prepared:
    """from_pretrained of its own layout, written once from the shared weights."""
    import tempfile
    from pathlib import Path

    from safetensors.torch import load_file

    make_torchvision_importable()
    from transformers import CLIPModel

    from benchmarks.work import MODELS, ORACLE_ROWS
    from tests.weights import save_as

    shared = load_file(Path(work.weights, "open_clip_model.safetensors"))
    folder = save_as("hf", shared, MODELS[work.model], Path(tempfile.mkdtemp(dir=work.weights)))

    def result() -> object:
        model = CLIPModel.from_pretrained(folder)
        images = Work("images", "fp32", ORACLE_ROWS, work.threads, work.model, work.weights)
        with torch.inference_mode():
            pooled = model.vision_model(tower_inputs(images)).pooler_output
            rows = model.visual_projection(pooled)
        return torch.nn.functional.normalize(rows, dim=-1).numpy()

    return Prepared(lambda: CLIPModel.from_pretrained(folder), 1, result)
