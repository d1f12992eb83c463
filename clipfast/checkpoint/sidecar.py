"""The config files beside a weight file, and which of them speak for which layout."""

from __future__ import annotations

import logging
from pathlib import Path

from clipfast.checkpoint import hf_config, open_clip_config
from clipfast.checkpoint.declaration import Declaration, read_json
from clipfast.checkpoint.layouts import HF_LAYOUT, Layout
from clipfast.config import PreprocessConfig

logger = logging.getLogger("clipfast")

PREPROCESSOR_CONFIGS = ("preprocessor_config.json", "processor_config.json")
TOKENIZER = "tokenizer.json"


def tokenizer_file(folder: Path, layout: Layout) -> Path | None:
    """The tokenizer that transformers' weights bring with them, or None."""
    file = folder / TOKENIZER
    return file if layout.name == HF_LAYOUT and file.is_file() else None


def read_sidecars(folder: Path, layout: Layout) -> list[Declaration]:
    """What the config files beside weights of this layout declare; empty when there are none.

    A transformers file is described by config.json (and its preprocessor's), any other by open_clip_config.json;
    a transformers file without config.json may use open_clip_config.json too.
    Raises: CheckpointError for configs that are broken or describe an unsupported family.
    """
    if layout.name == HF_LAYOUT and (folder / hf_config.FILE_NAME).is_file():
        return [hf_config.read_hf_config(folder / hf_config.FILE_NAME), _preprocessor(folder)]
    if (folder / open_clip_config.FILE_NAME).is_file():
        return [open_clip_config.read_open_clip_config(folder / open_clip_config.FILE_NAME)]
    return []


def _preprocessor(folder: Path) -> Declaration:
    for name in PREPROCESSOR_CONFIGS:
        path = folder / name
        if path.is_file() and (
            name == PREPROCESSOR_CONFIGS[0] or "image_processor" in read_json(path)
        ):
            return hf_config.read_hf_preprocessor(path)
    logger.info(
        "%s: no preprocessor_config.json, so transformers' default for CLIP: OpenAI's preprocessing",
        folder,
    )
    return Declaration(origin="transformers' default preprocessing", preprocess=PreprocessConfig())
