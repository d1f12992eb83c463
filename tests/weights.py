"""Random CLIP weights in every file layout in which CLIP weights are published.

    config = reduced(ARCHITECTURES["ViT-B-32"])                # the real widths, two blocks a tower
    weights = random_weights(config, seed=0)                   # canonical (OpenAI) names, float32
    source = save_as("openai_jit", weights, config, tmp_path)  # a path for clipfast.load

"openai_jit" stores the matrices as float16, as OpenAI does: where several layouts must hold the
same numbers, save `round_like_openai(weights)`. The layouts in SAYS_ITS_CONFIG need no other
argument to load; a bare file does not say its heads, activation or preprocessing: pass
`load_arguments(layout, config)`, or put `open_clip_config(config)` beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from clipfast.checkpoint.pretrained import releases_of
from clipfast.config import ModelConfig
from tests.layouts import hf_config, open_clip_config, save_openai_jit, to_custom_text, to_hf
from tests.random_weights import (
    Weights,
    halve_like_openai,
    is_half_in_openai,
    random_weights,
    reduced,
    round_like_openai,
    tiny,
    tiny_resnet,
)

__all__ = [
    "LAYOUTS",
    "RESNET_LAYOUTS",
    "SAYS_ITS_CONFIG",
    "Weights",
    "halve_like_openai",
    "hf_config",
    "is_half_in_openai",
    "load_arguments",
    "open_clip_config",
    "random_weights",
    "reduced",
    "round_like_openai",
    "save_as",
    "tiny",
    "tiny_resnet",
    "to_custom_text",
    "to_hf",
]


def _prefixed(weights: Weights, prefix: str) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()}


def _state_dict(weights: Weights, config: ModelConfig, folder: Path) -> Path:
    torch.save(weights, folder / "model.pt")
    return folder / "model.pt"


def _training_checkpoint(weights: Weights, config: ModelConfig, folder: Path) -> Path:
    """What open_clip's training writes: nested, with distributed training's prefix."""
    state = {"epoch": 32, "name": "run", "state_dict": _prefixed(weights, "module.")}
    torch.save(state, folder / "epoch_32.pt")
    return folder / "epoch_32.pt"


def _compiled(weights: Weights, config: ModelConfig, folder: Path) -> Path:
    torch.save({"state_dict": _prefixed(weights, "_orig_mod.")}, folder / "compiled.pth")
    return folder / "compiled.pth"


def _open_clip_bin(weights: Weights, config: ModelConfig, folder: Path) -> Path:
    torch.save(weights, folder / "open_clip_pytorch_model.bin")
    return folder / "open_clip_pytorch_model.bin"


def _safetensors(weights: Weights, config: ModelConfig, folder: Path) -> Path:
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder / "open_clip_model.safetensors"


def _custom_text(weights: Weights, config: ModelConfig, folder: Path) -> Path:
    return _safetensors(to_custom_text(weights), config, folder)


def _custom_text_linear(weights: Weights, config: ModelConfig, folder: Path) -> Path:
    return _safetensors(to_custom_text(weights, linear=True), config, folder)


def _open_clip_directory(weights: Weights, config: ModelConfig, folder: Path) -> Path:
    _safetensors(weights, config, folder)
    (folder / "open_clip_config.json").write_text(json.dumps(open_clip_config(config)))
    return folder


def _hf(weights: Weights, config: ModelConfig, folder: Path) -> Path:
    (folder / "config.json").write_text(json.dumps(hf_config(config)))
    save_file(to_hf(weights), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _hf_sharded(weights: Weights, config: ModelConfig, folder: Path) -> Path:
    (folder / "config.json").write_text(json.dumps(hf_config(config)))
    tensors = to_hf(weights)
    names = list(tensors)
    shards = [names[0::3], names[1::3], names[2::3]]
    where = {}
    for index, shard in enumerate(shards, 1):
        file = f"model-{index:05d}-of-00003.safetensors"
        save_file({name: tensors[name] for name in shard}, folder / file, metadata={"format": "pt"})
        where.update(dict.fromkeys(shard, file))
    total = sum(tensor.nbytes for tensor in tensors.values())
    index_file = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index_file))
    return folder


def _hf_bin(weights: Weights, config: ModelConfig, folder: Path) -> Path:
    (folder / "config.json").write_text(json.dumps(hf_config(config)))
    torch.save(to_hf(weights), folder / "pytorch_model.bin")
    return folder


def _openai_jit(weights: Weights, config: ModelConfig, folder: Path) -> Path:
    return save_openai_jit(weights, config, folder / "ViT-B-32.pt")


_WRITERS: dict[str, Callable[[Weights, ModelConfig, Path], Path]] = {
    "openai_jit": _openai_jit,
    "state_dict": _state_dict,
    "training_checkpoint": _training_checkpoint,
    "compiled": _compiled,
    "open_clip_bin": _open_clip_bin,
    "open_clip_safetensors": _safetensors,
    "custom_text": _custom_text,
    "custom_text_linear": _custom_text_linear,
    "open_clip_directory": _open_clip_directory,
    "hf": _hf,
    "hf_sharded": _hf_sharded,
    "hf_bin": _hf_bin,
}
LAYOUTS = tuple(_WRITERS)
RESNET_LAYOUTS = tuple(name for name in LAYOUTS if not name.startswith("hf"))
SAYS_ITS_CONFIG = ("openai_jit", "open_clip_directory", "hf", "hf_sharded", "hf_bin")


def save_as(layout: str, weights: Weights, config: ModelConfig, folder: Path) -> Path:
    """Write canonical weights in one of LAYOUTS under `folder`; returns the file or folder to load.

    The folder is made if absent. transformers has no ResNet: "hf" layouts raise ValueError for one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return _WRITERS[layout](weights, config, folder)


def load_arguments(layout: str, config: ModelConfig) -> dict[str, str]:
    """What load_checkpoint needs beside the path for a published architecture saved in this layout."""
    if layout in SAYS_ITS_CONFIG:
        return {}
    activation = config.text.activation
    for release in releases_of([config.name]):
        if (release.activation, release.preprocess) == (activation, config.preprocess):
            return {"architecture": release.name}
    return {"architecture": config.name, "activation": activation}
