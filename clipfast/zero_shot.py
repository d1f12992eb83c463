"""Zero-shot classification: a label's embedding is the mean over prompts that name it.

    w_label = normalise(mean over templates of normalise(text embedding));  p = softmax(logit_scale * image . w)

Source: Radford et al. 2021, arXiv:2103.00020, section 3.1.4 (prompt ensembling).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from clipfast.errors import CheckpointError, InputError
from clipfast.ops import Tensor
from clipfast.scoring import similarity

if TYPE_CHECKING:
    from clipfast.api import Model

_FORMAT = "clipfast-zero-shot-classifier-1"
# Prompts whose embeddings are held at once.
_PROMPTS_AT_ONCE = 65536


class ZeroShotClassifier:
    """Labels and their embeddings in one model's space.

    Attributes:
        labels: M names, in the order of the probabilities.
        weights: (M, E) float32 unit rows, on the CPU.
    """

    def __init__(
        self, model: Model, labels: Sequence[str], weights: Tensor, templates: Sequence[str]
    ) -> None:
        self.labels = tuple(labels)
        self.templates = tuple(templates)
        self.weights = weights
        self._model = model

    def classify(self, images: Any, **options: Any) -> Tensor:
        """Probabilities (N, M) float32, rows sum to 1. images, options: as `Model.encode_images`.

        A failed image of errors="null" has a row of NaN.
        """
        embeddings = self._model.encode_images(images, **options)
        weights = self.weights.to(embeddings.device, embeddings.dtype)
        probabilities = similarity(embeddings, weights, self._model.logit_scale)
        failed = embeddings.isnan().any(dim=1, keepdim=True)
        return probabilities.masked_fill(failed, torch.nan)

    def save(self, path: str | Path) -> None:
        """Write labels, templates and weights as safetensors, keyed by the model's weights."""
        metadata = {
            "format": _FORMAT,
            "model": self._model.fingerprint,
            "labels": json.dumps(self.labels),
            "templates": json.dumps(self.templates),
        }
        save_file({"weights": self.weights.contiguous()}, str(path), metadata=metadata)

    def load(self, path: str | Path) -> ZeroShotClassifier:
        """The classifier that `save` wrote, for the same model as this one; see `Model.load_classifier`."""
        return load_classifier(self._model, path)


def zero_shot_classifier(
    model: Model, labels: Sequence[str], templates: Sequence[str], *, progress: bool = False
) -> ZeroShotClassifier:
    """The classifier of `labels`. Templates hold "{}" where the label goes.

    Raises: InputError when there is no label or no template, or a template has no "{}".
    """
    _check(labels, templates)
    at_once = max(1, _PROMPTS_AT_ONCE // len(templates))
    rows = []
    for start in range(0, len(labels), at_once):
        some = labels[start : start + at_once]
        prompts = [template.replace("{}", label) for label in some for template in templates]
        embedded = model.encode_texts(prompts, progress=progress).view(
            len(some), len(templates), -1
        )
        rows.append(F.normalize(embedded.mean(dim=1), dim=-1))
    return ZeroShotClassifier(model, labels, torch.cat(rows).cpu(), templates)


def load_classifier(model: Model, path: str | Path) -> ZeroShotClassifier:
    """The classifier that `ZeroShotClassifier.save` wrote.

    Raises: CheckpointError when the file is something else or was made with other weights.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            weights = file.get_tensor("weights") if metadata.get("format") == _FORMAT else None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable classifier file: {error}") from error
    if weights is None:
        raise CheckpointError(
            f"{path} is a safetensors file, but no classifier that clipfast saved"
        )
    if metadata["model"] != model.fingerprint:
        raise CheckpointError(
            f"{path} was made with weights {metadata['model'][:12]}, this model has {model.fingerprint[:12]}: "
            "build the classifier again with zero_shot_classifier"
        )
    return ZeroShotClassifier(
        model, json.loads(metadata["labels"]), weights, json.loads(metadata["templates"])
    )


def _check(labels: Sequence[str], templates: Sequence[str]) -> None:
    for name, strings in (("labels", labels), ("templates", templates)):
        if isinstance(strings, str) or not len(strings):
            raise InputError(
                f"{name}={strings!r}: expected a list with at least one str", code="wrong_type"
            )
    for index, label in enumerate(labels):
        if not isinstance(label, str):
            raise InputError(
                f"label is {type(label).__name__}, expected a str", code="wrong_type", index=index
            )
    for index, template in enumerate(templates):
        if not isinstance(template, str) or "{}" not in template:
            raise InputError(
                f'template {template!r} has no "{{}}" where the label goes',
                code="invalid_text",
                index=index,
            )
