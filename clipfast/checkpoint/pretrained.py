"""The published releases as data: where the weights of a name are kept, and what their tensors do not tell.

pretrained.json is written by `extract_pretrained` from open_clip's table: a release is a model and a pretrained tag.
OpenAI's own names ("ViT-B/32") are the releases with the tag "openai".
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from clipfast.config import Activation, PreprocessConfig

DATA_FILE = Path(__file__).with_name("pretrained.json")

# OpenAI's name -> (open_clip's name, file name of the archive that the reference package downloads).
OPENAI_NAMES = {
    "RN50": ("RN50", "RN50.pt"),
    "RN101": ("RN101", "RN101.pt"),
    "RN50x4": ("RN50x4", "RN50x4.pt"),
    "RN50x16": ("RN50x16", "RN50x16.pt"),
    "RN50x64": ("RN50x64", "RN50x64.pt"),
    "ViT-B/32": ("ViT-B-32", "ViT-B-32.pt"),
    "ViT-B/16": ("ViT-B-16", "ViT-B-16.pt"),
    "ViT-L/14": ("ViT-L-14", "ViT-L-14.pt"),
    "ViT-L/14@336px": ("ViT-L-14-336", "ViT-L-14-336px.pt"),
}


@dataclass(frozen=True)
class Release:
    """One published set of weights.

    hub: "org/name", or "org/name/file" where the file has an unusual name. family: why it cannot be loaded yet,
    or None. openai_sha256: of the TorchScript archive that the reference package keeps in ~/.cache/clip.
    """

    model: str
    tag: str
    hub: str
    activation: Activation
    preprocess: PreprocessConfig
    family: str | None
    openai_sha256: str | None

    @property
    def name(self) -> str:
        return f"{self.model}/{self.tag}"


@cache
def releases() -> tuple[Release, ...]:
    """Every release of the table, supported or not."""
    standard = PreprocessConfig()
    return tuple(
        Release(
            model=entry["model"],
            tag=entry["tag"],
            hub=entry["hub"],
            activation="quick_gelu" if entry.get("quick_gelu") else "gelu",
            preprocess=PreprocessConfig(
                mean=tuple(entry.get("mean", standard.mean)),
                std=tuple(entry.get("std", standard.std)),
                interpolation=entry.get("interpolation", standard.interpolation),
                resize_mode=entry.get("resize_mode", standard.resize_mode),
            ),
            family=entry.get("family"),
            openai_sha256=entry.get("openai_sha256"),
        )
        for entry in json.loads(DATA_FILE.read_text(encoding="utf-8"))
    )


def find_release(name: str) -> Release | None:
    """The release of an OpenAI name ("ViT-B/32") or of "model/tag", with or without -quickgelu; else None."""
    if name in OPENAI_NAMES:
        name = f"{OPENAI_NAMES[name][0]}/openai"
    model, _, tag = name.rpartition("/")
    wanted = (model.removesuffix("-quickgelu"), tag.lower().replace("-", "_"))
    found = next((r for r in releases() if (r.model, r.tag) == wanted), None)
    if found is not None and model.endswith("-quickgelu") and found.activation != "quick_gelu":
        return None
    return found


def releases_of(models: Iterable[str]) -> list[Release]:
    """The releases of these model names."""
    models = set(models)
    return [release for release in releases() if release.model in models]


def available_models() -> list[str]:
    """Names that `load` accepts: OpenAI's nine, then every supported release as "model/tag"."""
    return [*OPENAI_NAMES, *(release.name for release in releases() if release.family is None)]
