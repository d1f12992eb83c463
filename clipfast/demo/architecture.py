"""The demo model's shape, its first weights, and how it is stored (open_clip's built-in layout, fp16)."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from clipfast.config import ModelConfig, TextConfig, VisionTransformerConfig

Tensor = torch.Tensor

WEIGHTS = Path(__file__).parent / "weights"
VISION = VisionTransformerConfig(
    image_size=112,
    patch_size=16,
    width=128,
    layers=5,
    heads=2,
    mlp_width=512,
    activation="gelu",
)
TEXT = TextConfig(
    context_length=77,
    vocab_size=49408,
    width=128,
    layers=2,
    heads=2,
    mlp_width=512,
    activation="gelu",
)
CONFIG = ModelConfig(name="demo", embed_dim=128, vision=VISION, text=TEXT)


def initial_tensors(seed: int) -> dict[str, Tensor]:
    """First weights under their canonical (OpenAI) names, float32. Source: Radford et al. 2021, section 2.4,
    but for the positions of patches.

    The token embedding is random signs of one size: most of its rows are never trained, and signs compress well.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, std: float) -> Tensor:
        return torch.randn(*shape, generator=generator) * std

    signs = torch.randint(0, 2, (TEXT.vocab_size, TEXT.width), generator=generator)
    patch, embed_dim = VISION.patch_size, CONFIG.embed_dim
    tensors = {
        "visual.class_embedding": normal(VISION.width, std=VISION.width**-0.5),
        "visual.positional_embedding": _positions(VISION.grid, VISION.width),
        "visual.conv1.weight": normal(VISION.width, 3, patch, patch, std=(3 * patch**2) ** -0.5),
        "visual.proj": normal(VISION.width, embed_dim, std=VISION.width**-0.5),
        "token_embedding.weight": 0.02 * (2.0 * signs - 1.0),
        "positional_embedding": normal(TEXT.context_length, TEXT.width, std=0.01),
        "text_projection": normal(TEXT.width, embed_dim, std=TEXT.width**-0.5),
        "logit_scale": torch.tensor(1 / 0.07).log(),
    }
    for name in ("visual.ln_pre", "visual.ln_post"):
        tensors |= _layer_norm(name, VISION.width)
    tensors |= _layer_norm("ln_final", TEXT.width)
    for prefix, tower in (("visual.transformer", VISION), ("transformer", TEXT)):
        for i in range(tower.layers):
            tensors |= _block(f"{prefix}.resblocks.{i}", tower.width, tower.layers, generator)
    return tensors


def save_weights(tensors: dict[str, Tensor], folder: Path = WEIGHTS) -> Path:
    """Writes model.safetensors (fp16) and its sidecar open_clip_config.json; returns the weight file's path."""
    folder.mkdir(parents=True, exist_ok=True)
    half = {name: tensor.detach().half().contiguous() for name, tensor in tensors.items()}
    path = folder / "model.safetensors"
    save_file(half, path)
    (folder / "open_clip_config.json").write_text(json.dumps(_sidecar(), indent=2) + "\n")
    return path


def _sidecar() -> dict[str, object]:
    """open_clip's own schema. Its activation is GELU unless `quick_gelu` is true."""
    preprocess = CONFIG.preprocess
    return {
        "model_cfg": {
            "embed_dim": CONFIG.embed_dim,
            "quick_gelu": False,
            "vision_cfg": {
                "image_size": VISION.image_size,
                "layers": VISION.layers,
                "width": VISION.width,
                "patch_size": VISION.patch_size,
                "head_width": VISION.head_dim,
            },
            "text_cfg": {
                "context_length": TEXT.context_length,
                "vocab_size": TEXT.vocab_size,
                "width": TEXT.width,
                "heads": TEXT.heads,
                "layers": TEXT.layers,
            },
        },
        "preprocess_cfg": {
            "size": VISION.image_size,
            "mode": "RGB",
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "interpolation": preprocess.interpolation,
            "resize_mode": preprocess.resize_mode,
            "fill_color": 0,
        },
    }


def _positions(grid: int, width: int) -> Tensor:
    """(1 + grid^2, width): zeros for the class row, sines and cosines of x and y for the patches.

    A transformer this small learns faster when it starts with a sense of place. Source: Vaswani et al. 2017,
    section 3.5, in two dimensions.
    """
    place = torch.arange(grid, dtype=torch.float32)
    angles = place[:, None] / 100 ** torch.linspace(0, 1, width // 4 + 1)[:-1]
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    x, y = waves.repeat(grid, 1), waves.repeat_interleave(grid, dim=0)
    return torch.cat([torch.zeros(1, width), 2.0 * torch.cat([x, y], dim=1)])


def _layer_norm(name: str, width: int) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.ones(width), f"{name}.bias": torch.zeros(width)}


def _block(name: str, width: int, layers: int, generator: torch.Generator) -> dict[str, Tensor]:
    def linear(part: str, out: int, into: int, std: float) -> dict[str, Tensor]:
        weight = torch.randn(out, into, generator=generator) * std
        joint = "_" if part.endswith("in_proj") else "."
        return {
            f"{name}.{part}{joint}weight": weight,
            f"{name}.{part}{joint}bias": torch.zeros(out),
        }

    residual_std = (2 * layers * width) ** -0.5
    return {
        **_layer_norm(f"{name}.ln_1", width),
        **linear("attn.in_proj", 3 * width, width, width**-0.5),
        **linear("attn.out_proj", width, width, residual_std),
        **_layer_norm(f"{name}.ln_2", width),
        **linear("mlp.c_fc", 4 * width, width, (2 * width) ** -0.5),
        **linear("mlp.c_proj", width, 4 * width, residual_std),
    }
