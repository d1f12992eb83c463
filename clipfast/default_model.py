"""The process-wide default model behind `clipfast.encode_images` and `clipfast.encode_texts`."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clipfast import environment
from clipfast.api import Model, load
from clipfast.errors import ConfigurationError
from clipfast.ops import Tensor

_lock = threading.Lock()
_default: list[Model] = []


def set_default_model(model: Model | str | Path | None, **options: Any) -> None:
    """What encode_images and encode_texts use: a loaded model, or a source that `load(source, **options)` takes.

    None forgets it; the next call then loads CLIPFAST_MODEL again.
    """
    chosen = load(model, **options) if isinstance(model, str | Path) else model
    with _lock:
        _default[:] = [] if chosen is None else [chosen]


def encode_images(images: Any, **options: Any) -> Tensor:
    """`Model.encode_images` of the default model. Raises: ConfigurationError when there is none."""
    return _default_model().encode_images(images, **options)


def encode_texts(texts: Iterable[str], **options: Any) -> Tensor:
    """`Model.encode_texts` of the default model. Raises: ConfigurationError when there is none."""
    return _default_model().encode_texts(texts, **options)


def _default_model() -> Model:
    with _lock:
        if not _default:
            source = environment.default_model()
            if source is None:
                raise ConfigurationError(
                    "there is no default model: call clipfast.set_default_model('ViT-B/32'), "
                    "or set CLIPFAST_MODEL to a name or path"
                )
            _default.append(load(source))
        return _default[0]
