"""From what the user names (a release, a path, a directory, a hub repository, "demo") to local files.

Where a directory or repository holds several weight files, the first of this order is taken:
open_clip safetensors, transformers safetensors (sharded too), then the same as torch files; then a lone weight file.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clipfast.checkpoint.declaration import read_json
from clipfast.checkpoint.families import unsupported_family
from clipfast.checkpoint.hf_config import FILE_NAME as HF_CONFIG
from clipfast.checkpoint.open_clip_config import FILE_NAME as OPEN_CLIP_CONFIG
from clipfast.checkpoint.pretrained import (
    OPENAI_NAMES,
    Release,
    available_models,
    find_release,
    releases_of,
)
from clipfast.checkpoint.sidecar import PREPROCESSOR_CONFIGS, TOKENIZER
from clipfast.checkpoint.weight_file import shard_files
from clipfast.config import ARCHITECTURES
from clipfast.errors import CheckpointError

if TYPE_CHECKING:
    from clipfast.checkpoint.hub import HubRepository

logger = logging.getLogger("clipfast")

DEMO_DIRECTORY = Path(__file__).parent.parent / "demo" / "weights"
_HF_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_OPEN_CLIP_WEIGHTS = (
    "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin",
)  # fmt: skip
_PREFERENCE = (*_OPEN_CLIP_WEIGHTS[:2], *_HF_WEIGHTS[:2], _OPEN_CLIP_WEIGHTS[2], *_HF_WEIGHTS[2:])
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Located:
    """A weight file (or shard index) on this machine, and the release it is when it was asked for by name.

    Without a release, config files beside the weights speak for them.
    """

    weights: Path
    label: str
    release: Release | None = None


def locate(source: str | os.PathLike[str]) -> Located:
    """The local files of a source; hub files are downloaded into huggingface_hub's cache.

    Raises: CheckpointError when there is no such name, path or repository, saying what was looked for.
    """
    if not isinstance(source, str):
        return _locate_path(Path(source))
    if source == "demo":
        return _locate_directory(DEMO_DIRECTORY, source)
    if source.startswith("hf-hub:"):
        return _locate_repository(source)
    release = find_release(source)
    if release is not None:
        return _locate_release(release, source)
    if Path(source).exists():
        return _locate_path(Path(source))
    raise _unknown(source)


def _locate_path(path: Path) -> Located:
    if path.is_dir():
        return _locate_directory(path, str(path))
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or directory")
    return Located(path, str(path))


def _locate_directory(path: Path, label: str) -> Located:
    def present(file: str) -> Path | None:
        return path / file if (path / file).is_file() else None

    preferred = _preferred(present)
    if preferred is not None:
        return Located(preferred, label)
    for suffix in _SUFFIXES:
        lone = sorted(path.glob(f"*{suffix}")) if path.is_dir() else []
        if len(lone) == 1:
            return Located(lone[0], label)
        if lone:
            names = ", ".join(file.name for file in lone[:8])
            raise CheckpointError(f"{path}: {len(lone)} weight files, name one of them: {names}")
    raise CheckpointError(
        f"{path}: no weight file in it, expected one of {', '.join(_PREFERENCE)}, or *{', *'.join(_SUFFIXES)}"
    )


def _preferred(present: Callable[[str], Path | None]) -> Path | None:
    """The first weight file of the preference order; `present` gives a file's path or None."""
    config = present(HF_CONFIG)
    # timm keeps an image tower alone as model.safetensors, beside open_clip's file with both towers.
    from_timm = config is not None and "pretrained_cfg" in read_json(config)
    names = _OPEN_CLIP_WEIGHTS if from_timm else _PREFERENCE
    return next((path for name in names if (path := present(name)) is not None), None)


def _hub_repository(name: str, revision: str | None = None) -> HubRepository:
    from clipfast.checkpoint.hub import (
        HubRepository,
    )  # 0.4 s of imports that a local file does not need

    return HubRepository(name, revision)


def _locate_repository(source: str) -> Located:
    name, _, revision = source.removeprefix("hf-hub:").partition("@")
    if name.count("/") != 1:
        raise CheckpointError(f"{source}: expected hf-hub:organisation/name, optionally @revision")
    repository = _hub_repository(name, revision or None)
    for config in (OPEN_CLIP_CONFIG, *PREPROCESSOR_CONFIGS):
        repository.fetch(config)  # into the snapshot folder, beside the weights
    weights = _preferred(repository.fetch)
    if weights is None:
        raise repository.nothing_found()
    if weights.name.endswith(".index.json"):
        for shard in sorted(set(shard_files(weights).values())):
            repository.fetch(shard)
    if weights.name in _HF_WEIGHTS:
        repository.fetch(TOKENIZER)
    return Located(weights, source)


def _locate_release(release: Release, name: str) -> Located:
    if release.family is not None:
        raise CheckpointError(f"{name}: {unsupported_family(release.family, 'by its name')}")
    organisation, repository_name, *file = release.hub.split("/")
    repository = _hub_repository(f"{organisation}/{repository_name}")
    for candidate in file or _OPEN_CLIP_WEIGHTS:
        weights = repository.fetch(candidate)
        if weights is not None:
            return Located(weights, name, release)
    archive = _reference_archive(release)
    if archive is not None:
        logger.info("%s: the hub has it not at hand; using %s", name, archive)
        return Located(archive, name, release)
    raise repository.nothing_found()


def _reference_archive(release: Release) -> Path | None:
    """The file that OpenAI's package downloaded earlier, if it is there and intact."""
    if release.openai_sha256 is None:
        return None
    file = next(file for model, file in OPENAI_NAMES.values() if model == release.model)
    path = Path("~/.cache/clip").expanduser() / file
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != release.openai_sha256:
        logger.warning("%s: not the published file (its sha256 differs), left alone", path)
        return None
    return path


def _unknown(source: str) -> CheckpointError:
    model = source.removesuffix("-quickgelu")
    if model in ARCHITECTURES:
        tags = ", ".join(release.name for release in releases_of([model]))
        return CheckpointError(
            f"{source!r} is an architecture, not weights; name a release: {tags}"
        )
    close = difflib.get_close_matches(source, available_models(), n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    return CheckpointError(
        f"{source!r} is no published name, no path and no hf-hub:organisation/name{hint} "
        "(clipfast.available_models() lists the names)"
    )
