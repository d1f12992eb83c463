"""Prompt templates and class names for zero-shot classification, as published with CLIP.

IMAGENET: the 80 templates of the CLIP release's ImageNet evaluation; IMAGENET_SIMPLE: the 7 of its forward selection;
IMAGENET_CLASSNAMES: its 1000 curated class names, in class order. Data: imagenet.json, taken from open_clip's
zero_shot_metadata.py (MIT licence), which reproduces the notebooks of the CLIP release (MIT licence).
"""

from __future__ import annotations

import json
from importlib.resources import files

_DATA: dict[str, list[str]] = json.loads(
    files("clipfast").joinpath("imagenet.json").read_text(encoding="utf-8")
)

DEFAULT: tuple[str, ...] = ("a photo of a {}.",)
IMAGENET: tuple[str, ...] = tuple(_DATA["templates"])
IMAGENET_SIMPLE: tuple[str, ...] = tuple(_DATA["simple_templates"])
IMAGENET_CLASSNAMES: tuple[str, ...] = tuple(_DATA["classnames"])
