"""Any CLIP weight file as canonical tensors and a config; nothing in the file is executed.

    checkpoint = load_checkpoint("ViT-B/32")              # or a path, a directory, "hf-hub:org/name", "demo"
    checkpoint.config.vision.heads                        # 12
    checkpoint.tensors["visual.conv1.weight"]             # memory-mapped, in its stored dtype

read (weight_file) -> rename (layouts) -> measure -> decide what tensors cannot tell (architecture) -> check.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from clipfast.checkpoint.architecture import (
    check_activation,
    decide_config,
    declare_openai_archive,
    declare_release,
    describe,
    parse_architecture,
)
from clipfast.checkpoint.declaration import Declaration
from clipfast.checkpoint.layouts import (
    OPENAI_LAYOUT,
    CanonicalTensors,
    Layout,
    canonical_tensors,
    identify_layout,
)
from clipfast.checkpoint.measure import Sizes, check_shapes, measure
from clipfast.checkpoint.pages import forget_pages
from clipfast.checkpoint.pretrained import available_models
from clipfast.checkpoint.sidecar import read_sidecars, tokenizer_file
from clipfast.checkpoint.source import Located, locate
from clipfast.checkpoint.verify import check_values
from clipfast.checkpoint.weight_file import RawWeights, read_weights
from clipfast.config import Activation, ModelConfig
from clipfast.errors import CheckpointError

__all__ = ["Checkpoint", "available_models", "load_checkpoint"]

logger = logging.getLogger("clipfast")


@dataclass(frozen=True)
class Checkpoint:
    """Weights that were read and checked, and the model they belong to.

    Attributes:
        config: sizes, heads, activation and preprocessing, all decided.
        tensors: canonical (OpenAI) name -> tensor in its stored dtype; logit_scale is 0-d, the log of the scale.
            Views of the memory-mapped file; a tensor that the file keeps in parts is concatenated at each access.
        source: what was loaded, for messages.
        tokenizer_file: the tokenizer.json that came with transformers' weights, or None.
        weights: the file, or shard index, that was read; None for tensors that come from none.
    """

    config: ModelConfig
    tensors: Mapping[str, torch.Tensor]
    source: str
    tokenizer_file: Path | None = None
    weights: Path | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 over every tensor's name, dtype, shape and bytes, in order of names; the same for every layout.

        Computed on first use (about 2 GB/s), then kept.
        """
        digest = hashlib.sha256()
        for name in sorted(self.tensors):
            tensor = self.tensors[name].contiguous()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def forget_pages(self) -> None:
        """Stop holding the file's pages in memory; they are read again when a tensor is."""
        if isinstance(self.tensors, CanonicalTensors):
            forget_pages(part for name in self.tensors for part in self.tensors.parts(name))


def load_checkpoint(
    source: str | os.PathLike[str],
    *,
    architecture: str | None = None,
    activation: Activation | None = None,
) -> Checkpoint:
    """Find, read and check the weights of a CLIP model.

    Args:
        source: a published name ("ViT-B/32"), a release ("ViT-B-32/laion2b_s34b_b79k"), "hf-hub:org/name[@revision]",
            a weight file, a directory (order of preference: see `source`), or "demo".
        architecture: for files that do not tell heads, activation and preprocessing: "ViT-H-14", with "-quickgelu",
            or the release that the weights were trained like ("ViT-L-14/laion2b_s32b_b82k").
        activation: "gelu" or "quick_gelu", over what anything else says.
    Raises:
        CheckpointError: not found, unsafe, broken, unknown, unsupported, ambiguous, or not finite; names the file.
        ConfigurationError: `architecture` or `activation` is none that exists.
    """
    check_activation(activation)
    family, named = parse_architecture(architecture) if architecture is not None else (None, None)
    located = locate(source)
    raw = read_weights(located.weights)
    with _naming(located.weights):
        layout = identify_layout(list(raw.tensors))
        tensors = canonical_tensors(raw.tensors, layout)
        sizes = measure(tensors.shapes())
    declarations = _declarations(located, raw, layout, sizes)
    if named is not None:
        declarations.append(named)
    if located.release is not None:
        family = family or located.release.model
    with _naming(located.weights):
        config = decide_config(
            sizes,
            declarations,
            family=family,
            activation=activation,
            fallback_name=Path(located.label).stem,
        )
        check_shapes(tensors.shapes(), config)
        check_values(tensors)
    logger.info("%s: %s layout, %s", located.label, layout.name, describe(config))
    beside = None if located.release else tokenizer_file(located.weights.parent, layout)
    return Checkpoint(config, tensors, located.label, beside, located.weights)


def _declarations(
    located: Located, raw: RawWeights, layout: Layout, sizes: Sizes
) -> list[Declaration]:
    """What is said beside the tensors: by the name of the weights, their kind of file, or config files."""
    if located.release is not None:
        return [declare_release(located.release, f"the release {located.release.name}")]
    if raw.is_torchscript and layout.name == OPENAI_LAYOUT:
        return [declare_openai_archive(sizes)]
    return read_sidecars(located.weights.parent, layout)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Puts the file's name before the CheckpointErrors of functions that see no file."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
