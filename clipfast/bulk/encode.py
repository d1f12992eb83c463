"""One decoded batch to rows of every modality asked for; what cannot be encoded is a failure of its own item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from clipfast.bulk.shard import Modality
from clipfast.errors import ClipfastError, InputError

if TYPE_CHECKING:
    from clipfast.api import Model

FloatRows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Encoded:
    """rows: (b, E) float32 of unit length; those of failed items mean nothing. failures: by place."""

    rows: dict[Modality, FloatRows]
    failures: dict[int, InputError]


def encode_batch(
    model: Model,
    pixels: torch.Tensor | None,
    captions: Sequence[str | None],
    failures: dict[int, InputError],
    modalities: Sequence[Modality],
) -> Encoded:
    """All b slots are encoded, failed ones too: then a row's bits do not depend on which of its neighbours failed.

    Args:
        pixels: (b, 3, R, R) uint8, black where the item failed; None without images.
        captions: b, used with texts.
        failures: of decoding.
    Raises:
        ClipfastError: the device is out of memory.
    """
    failures = dict(failures)
    rows: dict[Modality, FloatRows] = {}
    try:
        if "images" in modalities and pixels is not None:
            rows["images"] = model.encode_images(
                pixels, batch_size=len(pixels), output_device="cpu"
            ).numpy()
        if "texts" in modalities:
            rows["texts"] = _encode_captions(model, captions, failures)
    except torch.OutOfMemoryError as error:
        raise ClipfastError(f"{error}; pass a smaller --batch-size") from None
    for values in rows.values():
        for place in np.flatnonzero(~np.isfinite(values).all(axis=1)).tolist():
            message = f"its embedding is not finite in {model.precision}"
            failures.setdefault(place, InputError(message, code="non_finite"))
    return Encoded(rows, failures)


def _encode_captions(
    model: Model, captions: Sequence[str | None], failures: dict[int, InputError]
) -> FloatRows:
    """Captions that are too long are cut, as everywhere in CLIP; impossible ones leave an empty text in their slot."""
    texts = [caption or "" for caption in captions]
    while True:
        try:
            return model.encode_texts(texts, truncate=True).numpy()
        except InputError as error:
            if error.index is None or texts[error.index] == "":
                raise
            failures.setdefault(error.index, InputError(error.message, code=error.code))
            texts[error.index] = ""
