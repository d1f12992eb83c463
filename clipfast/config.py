"""What a CLIP model is, apart from its weights: frozen configs, and the published architectures as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Activation = Literal["gelu", "quick_gelu"]
Interpolation = Literal["bicubic", "bilinear"]
ResizeMode = Literal["shortest", "squash"]

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class PreprocessConfig:
    """How an image becomes the (3, R, R) pixels a tower was trained on.

    resize_mode "shortest": shorter side to R, then centre crop; "squash": both sides to R.
    mean, std: per RGB channel, in units of [0, 1] pixels.
    """

    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    interpolation: Interpolation = "bicubic"
    resize_mode: ResizeMode = "shortest"


@dataclass(frozen=True)
class VisionTransformerConfig:
    """A vision transformer (Dosovitskiy et al. 2020) with CLIP's ln_pre; (image_size / patch_size)^2 + 1 tokens."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: Activation
    layer_norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def grid(self) -> int:
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        return self.grid**2 + 1


@dataclass(frozen=True)
class ResNetConfig:
    """CLIP's modified ResNet (Radford et al. 2021, section 2.4): three-convolution stem, attention pooling."""

    image_size: int
    blocks: tuple[int, int, int, int]
    width: int
    heads: int

    @property
    def feature_width(self) -> int:
        return self.width * 32

    @property
    def grid(self) -> int:
        return self.image_size // 32


VisionConfig = VisionTransformerConfig | ResNetConfig


@dataclass(frozen=True)
class TextConfig:
    """A causal text transformer pooled at the first end-of-text token (EOT), so tokens after EOT never matter."""

    context_length: int
    vocab_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: Activation
    eot_id: int = 49407
    layer_norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


@dataclass(frozen=True)
class ModelConfig:
    """One CLIP model: both towers, the width of the shared embedding space, and the preprocessing."""

    name: str
    embed_dim: int
    vision: VisionConfig
    text: TextConfig
    preprocess: PreprocessConfig = PreprocessConfig()

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary; from_dict reverses it."""
        return asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> ModelConfig:
        """The config that to_dict wrote (tuples may have become lists)."""
        vision = dict(data["vision"])
        preprocess = dict(data["preprocess"])
        preprocess.update(mean=tuple(preprocess["mean"]), std=tuple(preprocess["std"]))
        return ModelConfig(
            name=data["name"],
            embed_dim=data["embed_dim"],
            vision=(
                ResNetConfig(**{**vision, "blocks": tuple(vision["blocks"])})
                if "blocks" in vision
                else VisionTransformerConfig(**vision)
            ),
            text=TextConfig(**data["text"]),
            preprocess=PreprocessConfig(**preprocess),
        )

    def with_activation(self, activation: Activation) -> ModelConfig:
        """The same model with both transformers' activation set (a ResNet's convolutions stay ReLU)."""
        vision = self.vision
        if isinstance(vision, VisionTransformerConfig):
            vision = replace(vision, activation=activation)
        return replace(self, vision=vision, text=replace(self.text, activation=activation))


def _text(width: int, layers: int = 12, mlp_ratio: int = 4) -> TextConfig:
    return TextConfig(77, 49408, width, layers, width // 64, width * mlp_ratio, "gelu")


def _vit(
    name: str, embed_dim: int, vision: tuple[int, int, int, int, int, int], text: TextConfig
) -> ModelConfig:
    image_size, patch_size, width, layers, heads, mlp_width = vision
    tower = VisionTransformerConfig(image_size, patch_size, width, layers, heads, mlp_width, "gelu")
    return ModelConfig(name, embed_dim, tower, text)


def _resnet(
    name: str,
    embed_dim: int,
    image_size: int,
    blocks: tuple[int, int, int, int],
    width: int,
    text_width: int,
) -> ModelConfig:
    tower = ResNetConfig(image_size, blocks, width, width * 32 // 64)
    return ModelConfig(name, embed_dim, tower, _text(text_width))


# The published families. `activation` here is the family's default (GELU); which weights are QuickGELU is a
# property of the release, kept with the pretrained tags.
ARCHITECTURES: dict[str, ModelConfig] = {
    config.name: config
    for config in (
        _resnet("RN50", 1024, 224, (3, 4, 6, 3), 64, 512),
        _resnet("RN101", 512, 224, (3, 4, 23, 3), 64, 512),
        _resnet("RN50x4", 640, 288, (4, 6, 10, 6), 80, 640),
        _resnet("RN50x16", 768, 384, (6, 8, 18, 8), 96, 768),
        _resnet("RN50x64", 1024, 448, (3, 15, 36, 10), 128, 1024),
        _vit("ViT-B-32", 512, (224, 32, 768, 12, 12, 3072), _text(512)),
        _vit("ViT-B-32-256", 512, (256, 32, 768, 12, 12, 3072), _text(512)),
        _vit("ViT-B-16", 512, (224, 16, 768, 12, 12, 3072), _text(512)),
        _vit("ViT-B-16-plus-240", 640, (240, 16, 896, 12, 14, 3584), _text(640)),
        _vit("ViT-L-14", 768, (224, 14, 1024, 24, 16, 4096), _text(768)),
        _vit("ViT-L-14-336", 768, (336, 14, 1024, 24, 16, 4096), _text(768)),
        _vit("ViT-H-14", 1024, (224, 14, 1280, 32, 16, 5120), _text(1024, 24)),
        _vit("ViT-H-14-378", 1024, (378, 14, 1280, 32, 16, 5120), _text(1024, 24)),
        _vit("ViT-g-14", 1024, (224, 14, 1408, 40, 16, 6144), _text(1024, 24)),
        _vit("ViT-bigG-14", 1280, (224, 14, 1664, 48, 16, 8192), _text(1280, 32)),
    )
}
