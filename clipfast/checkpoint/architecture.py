"""From sizes and declarations to a ModelConfig: what tensors cannot tell is looked up or asked for, never guessed.

Heads, activation, LayerNorm epsilon and preprocessing come from, and must agree between: a config file beside the
weights, the release that was asked for by name, the kind of file (OpenAI's TorchScript archives), and the caller's
`architecture`. What is still open then comes from the published releases of that architecture where all of them agree.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, get_args

from clipfast.checkpoint.declaration import CLIP_EOT, Declaration
from clipfast.checkpoint.measure import Sizes
from clipfast.checkpoint.pretrained import (
    OPENAI_NAMES,
    Release,
    find_release,
    releases_of,
)
from clipfast.config import (
    ARCHITECTURES,
    Activation,
    ModelConfig,
    PreprocessConfig,
    ResNetConfig,
    TextConfig,
    VisionConfig,
    VisionTransformerConfig,
)
from clipfast.errors import CheckpointError, ConfigurationError

logger = logging.getLogger("clipfast")
Value = TypeVar("Value")

_OPENAI_HEAD_WIDTH = 64

# Depth, image size and context length vary within an architecture; these do not.
_FAMILY_SIZES = (
    "embed_dim", "vision.width", "vision.patch_size", "vision.mlp_width", "text.width", "text.mlp_width",
)  # fmt: skip


def check_activation(activation: str | None) -> None:
    """Raise ConfigurationError unless `activation` is None or one that the towers have."""
    if activation is not None and activation not in get_args(Activation):
        raise ConfigurationError(f"activation is {activation!r}, expected 'gelu' or 'quick_gelu'")


def declare_release(release: Release, origin: str) -> Declaration:
    """What the name of a published release says."""
    return declare_family(release.model, origin, release.activation, release.preprocess)


def declare_family(
    model: str,
    origin: str,
    activation: Activation | None = None,
    preprocess: PreprocessConfig | None = None,
) -> Declaration:
    """What the name of an architecture says: heads and widths, and what the caller adds."""
    config = ARCHITECTURES[model]
    sizes = config_sizes(config)
    return Declaration(
        origin=origin,
        vision_heads=config.vision.heads,
        text_heads=config.text.heads,
        vision_activation=activation,
        text_activation=activation,
        preprocess=preprocess,
        sizes={key: sizes[key] for key in _FAMILY_SIZES if key in sizes},
    )


def declare_openai_archive(sizes: Sizes) -> Declaration:
    """What it says of a model that its file is a TorchScript archive in OpenAI's layout."""
    origin = "OpenAI's TorchScript archive"
    image_width = sizes["vision.width"] * (32 if "vision.blocks" in sizes else 1)
    heads = image_width // _OPENAI_HEAD_WIDTH, sizes["text.width"] // _OPENAI_HEAD_WIDTH
    logger.info("%s: QuickGELU, heads of width 64 (%d image, %d text)", origin, *heads)
    return Declaration(
        origin=origin,
        vision_heads=heads[0],
        text_heads=heads[1],
        vision_activation="quick_gelu",
        text_activation="quick_gelu",
        preprocess=PreprocessConfig(),
    )


def parse_architecture(name: str) -> tuple[str, Declaration]:
    """An `architecture` argument: "ViT-B-32" or "ViT-B/32", also with "-quickgelu", or "ViT-B-32/laion2b_s34b_b79k".

    Returns: the key in ARCHITECTURES, and what the name declares.
    Raises: ConfigurationError for a name that is none of these.
    """
    origin = f"architecture={name!r}"
    base = name.removesuffix("-quickgelu")
    model = OPENAI_NAMES.get(base, (base,))[0]
    if model in ARCHITECTURES:
        activation: Activation | None = "quick_gelu" if base != name else None
        return model, declare_family(model, origin, activation)
    release = find_release(name)
    if release is not None and release.family is None:
        return release.model, declare_release(release, origin)
    raise ConfigurationError(
        f"{origin} is not known, expected one of {', '.join(ARCHITECTURES)}, optionally with -quickgelu, or a release "
        "such as 'ViT-L-14/laion2b_s32b_b82k' (clipfast.available_models() lists them)"
    )


def config_sizes(config: ModelConfig) -> Sizes:
    """The sizes of a config, under the names that `measure` uses."""
    names: dict[str, Any] = {"embed_dim": config.embed_dim}
    for prefix, tower in (("vision", config.vision), ("text", config.text)):
        names |= {f"{prefix}.{key}": value for key, value in vars(tower).items()}
    return names


def decide_config(
    sizes: Sizes,
    declarations: Sequence[Declaration],
    *,
    family: str | None,
    activation: Activation | None,
    fallback_name: str,
) -> ModelConfig:
    """The config of weights with these sizes.

    Args:
        declarations: what is said beside the tensors. family: the architecture that the caller or the release named.
        activation: the caller's, over everything else. fallback_name: of a model of no published architecture.
    Raises: CheckpointError, without a file name, when declarations contradict the tensors or each other, or when
        heads, activation or preprocessing stay open; it names what to pass.
    """
    _check_declared_sizes(sizes, declarations)
    families = [family] if family else _families_of(sizes)
    published = releases_of(families)
    vision_heads, text_heads = _decide_heads(declarations, families, activation)
    vision_activation, text_activation = (
        activation or said or _published("activation", {r.activation for r in published}, families)
        for said in (_agreed(declarations, f"{tower}_activation") for tower in ("vision", "text"))
    )
    preprocess = _agreed(declarations, "preprocess") or _published_preprocess(
        published, families, text_activation
    )
    vision_eps, text_eps = (_agreed(declarations, f"{tower}_eps") for tower in ("vision", "text"))
    return ModelConfig(
        name=families[0] if families else fallback_name,
        embed_dim=sizes["embed_dim"],
        vision=_vision(sizes, vision_heads, vision_activation, vision_eps),
        text=TextConfig(
            **_tower_sizes(sizes, "text"),
            heads=text_heads,
            activation=text_activation,
            eot_id=CLIP_EOT,
            layer_norm_eps=text_eps or 1e-5,
        ),
        preprocess=preprocess,
    )


def _decide_heads(
    declarations: Sequence[Declaration], families: list[str], activation: Activation | None
) -> tuple[int, int]:
    """Heads of the image and the text tower: declared, or those of the architecture with these widths.

    That architecture is taken without being named only when the caller gives the activation, which says that the
    file is known.
    """
    vision, text = _agreed(declarations, "vision_heads"), _agreed(declarations, "text_heads")
    if vision is not None and text is not None:
        return vision, text
    if not families or activation is None:
        raise CheckpointError(_what_to_pass("number of attention heads and activation", families))
    return ARCHITECTURES[families[0]].vision.heads, ARCHITECTURES[families[0]].text.heads


def _tower_sizes(sizes: Sizes, tower: str) -> dict[str, Any]:
    prefix = f"{tower}."
    return {key.removeprefix(prefix): size for key, size in sizes.items() if key.startswith(prefix)}


def describe(config: ModelConfig) -> str:
    """One line for the log: sizes, heads, activation and preprocessing."""
    vision, text, pixels = config.vision, config.text, config.preprocess
    if isinstance(vision, ResNetConfig):
        image = f"ResNet {vision.blocks} width {vision.width}, {vision.image_size} pixels"
    else:
        size = f"{vision.width}x{vision.layers}/{vision.patch_size}"
        image = f"ViT {size}, {vision.heads} heads, {vision.image_size} pixels"
    return (
        f"{config.name}: {image}; text {text.width}x{text.layers}, {text.heads} heads, {text.context_length} tokens; "
        f"{text.activation}; {pixels.interpolation} {pixels.resize_mode}, mean {pixels.mean}, std {pixels.std}"
    )


def _vision(sizes: Sizes, heads: int, activation: Activation, eps: float | None) -> VisionConfig:
    """The image tower's config; its heads must divide its width."""
    values = _tower_sizes(sizes, "vision")
    if "blocks" in values:
        return ResNetConfig(**values, heads=heads)
    return VisionTransformerConfig(
        **values, heads=heads, activation=activation, layer_norm_eps=eps or 1e-5
    )


def _check_declared_sizes(sizes: Sizes, declarations: Iterable[Declaration]) -> None:
    for declaration in declarations:
        wrong = [
            f"{key} {sizes.get(key, 'absent')}, expected {value}"
            for key, value in declaration.sizes.items()
            if sizes.get(key) != value
        ]
        if wrong:
            raise CheckpointError(
                f"the tensors do not have the sizes of {declaration.origin}: {'; '.join(wrong)}"
            )
        for tower in ("vision", "text"):
            heads = getattr(declaration, f"{tower}_heads")
            width = sizes[f"{tower}.width"] * (
                32 if tower == "vision" and "vision.blocks" in sizes else 1
            )
            if heads is not None and width % heads:
                raise CheckpointError(
                    f"{declaration.origin} says {heads} {tower} heads, which do not divide width {width}"
                )


def _agreed(declarations: Iterable[Declaration], field: str) -> Any:
    """What the declarations say about a field; None when none does."""
    said = [(d.origin, value) for d in declarations if (value := getattr(d, field)) is not None]
    if not said:
        return None
    first_origin, first = said[0]
    for origin, value in said[1:]:
        if value != first:
            raise CheckpointError(
                f"{first_origin} and {origin} disagree about {field}: {first} and {value}; drop or correct one of them"
            )
    return first


def _families_of(sizes: Sizes) -> list[str]:
    """Architectures with these widths, those with the same image size first."""

    def matches(name: str) -> bool:
        known = config_sizes(ARCHITECTURES[name])
        return all(sizes.get(key) == known.get(key) for key in _FAMILY_SIZES)

    found = [name for name in ARCHITECTURES if matches(name)]
    same_image = [
        name
        for name in found
        if ARCHITECTURES[name].vision.image_size == sizes["vision.image_size"]
    ]
    return same_image or found


def _published(what: str, options: set[Value], families: list[str]) -> Value:
    """The one value that every published release of the families has."""
    if len(options) != 1:
        raise CheckpointError(_what_to_pass(what, families))
    (value,) = options
    logger.info("%s %s: as every published release of %s", what, value, " and ".join(families))
    return value


def _published_preprocess(
    published: list[Release], families: list[str], activation: Activation
) -> PreprocessConfig:
    options = {r.preprocess for r in published if r.activation == activation}
    return _published("preprocessing", options or {r.preprocess for r in published}, families)


def _what_to_pass(what: str, families: list[str]) -> str:
    known = [release.name for release in releases_of(families)]
    if not known:
        return (
            f"the tensors do not tell the {what}, and no published architecture has these sizes: put the model's "
            "open_clip_config.json (or transformers' config.json) beside the file"
        )
    settings = f"architecture={families[0]!r}, activation='gelu' (or 'quick_gelu'), or "
    return (
        f"the tensors do not tell the {what}: pass {'' if what == 'preprocessing' else settings}the release that it "
        f"was trained like, such as architecture={known[0]!r} (one of {', '.join(known)})"
    )
