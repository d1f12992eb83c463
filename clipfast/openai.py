"""A drop-in for the reference package: `import clipfast.openai as clip`, and its programs run unchanged.

Differences, all of them: any source that `clipfast.load` takes is a name here; the model holds no training state;
`load` takes `precision` and `backend` besides. Embeddings are not of unit length and images are normalised floats.
Source: github.com/openai/CLIP (MIT licence), its README's API section; the code here is our own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from clipfast import api
from clipfast.checkpoint.pretrained import OPENAI_NAMES
from clipfast.errors import InputError
from clipfast.inputs import load_tokenizer, preprocess_image
from clipfast.ops import Tensor


def available_models() -> list[str]:
    """The names that OpenAI published, which the reference package lists."""
    return list(OPENAI_NAMES)


def load(
    name: str | Path,
    device: str | torch.device | None = None,
    jit: bool = False,
    download_root: str | None = None,
    *,
    precision: str = "auto",
    backend: str = "auto",
) -> tuple[CLIP, Callable[[object], Tensor]]:
    """(model, preprocess), as `clip.load`.

    Args:
        name: a published name, or anything `clipfast.load` takes.
        device: None is auto.
        jit, download_root: accepted for compatibility; nothing is compiled from files, and the hub cache is used.
    """
    model = CLIP(api.load(name, device=device or "auto", precision=precision, backend=backend))
    return model, model.preprocess


def tokenize(
    texts: str | Sequence[str], context_length: int = 77, truncate: bool = False
) -> Tensor:
    """(N, context_length) int32 tokens, zero padded.

    Raises: RuntimeError (an InputError too) when a text is too long and truncate is False, as there.
    """
    try:
        return torch.from_numpy(load_tokenizer().tokenize(texts, context_length, truncate))
    except InputError as error:
        if error.code == "text_too_long":
            raise _TextTooLongError(error) from None
        raise


class _TextTooLongError(InputError, RuntimeError):
    """The reference raises RuntimeError for a text that is too long."""

    def __init__(self, error: InputError) -> None:
        super().__init__(error.message, code=error.code, index=error.index)


class CLIP:
    """The reference package's model interface over a clipfast model."""

    def __init__(self, model: api.Model) -> None:
        self.clipfast = model
        mean, std = model.config.preprocess.mean, model.config.preprocess.std
        self._mean = torch.tensor(mean).view(3, 1, 1)
        self._std = torch.tensor(std).view(3, 1, 1)

    @property
    def context_length(self) -> int:
        return self.clipfast.config.text.context_length

    @property
    def logit_scale(self) -> Tensor:
        """The logarithm, as there."""
        return torch.tensor(self.clipfast.logit_scale).log()

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def preprocess(self, image: object) -> Tensor:
        """An image to (3, R, R) float32, normalised."""
        config = self.clipfast.config
        pixels = preprocess_image(image, config.preprocess, config.vision.image_size)
        return (torch.from_numpy(pixels).float() / 255 - self._mean) / self._std

    def encode_image(self, image: Tensor) -> Tensor:
        """(N, 3, R, R) normalised floats -> (N, E) on the input's device, not of unit length."""
        return self.clipfast.encode_images(image, normalize=False)

    def encode_text(self, text: Tensor) -> Tensor:
        """(N, context_length) tokens -> (N, E) on the input's device, not of unit length."""
        encoded = self.clipfast.encode_tokens(text.cpu().numpy(), normalize=False)
        return encoded.to(text.device)

    def __call__(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """logits_per_image (N, M) and logits_per_text (M, N): logit_scale x cosine."""
        images = torch.nn.functional.normalize(self.encode_image(image), dim=-1)
        texts = torch.nn.functional.normalize(self.encode_text(text), dim=-1)
        logits = self.clipfast.logit_scale * images @ texts.T
        return logits, logits.T

    forward = __call__

    def eval(self) -> CLIP:
        return self

    def to(self, *_: Any, **__: Any) -> CLIP:
        """Unchanged: a clipfast model stays on the device it was loaded on."""
        return self

    def float(self) -> CLIP:
        return self
