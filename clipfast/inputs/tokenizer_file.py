"""The tokenizer of a checkpoint: CLIP's own, or the one that its tokenizer.json describes.

A file with CLIP's vocabulary is not used: the library that reads it, `tokenizers`, neither repairs text as CLIP's
training did (ftfy, HTML entities) nor keeps up with our encoder. Any other vocabulary is that library's work.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clipfast.config import TextConfig
from clipfast.errors import CheckpointError, ConfigurationError, DependencyError
from clipfast.inputs.token_rows import PythonRows, TokenRows
from clipfast.inputs.tokenizer import Tokenizer, check_text, load_tokenizer
from clipfast.inputs.vocabulary import read_merges, token_ids

logger = logging.getLogger("clipfast")


def tokenizer_of(file: Path | None, config: TextConfig) -> Tokenizer:
    """The tokenizer of a checkpoint.

    Args:
        file: the tokenizer.json that came with the weights, if any.
        config: of the text tower, whose vocabulary and end-of-text token the tokenizer must have.
    Raises: CheckpointError when the file is broken or does not fit the tower; DependencyError when it needs the
        `tokenizers` package, which is missing.
    """
    if file is None or holds_clip_vocabulary(file):
        return load_tokenizer()
    logger.info("%s: not CLIP's vocabulary, so texts are tokenized as this file says", file)
    return FileTokenizer(file, config)


def holds_clip_vocabulary(file: Path) -> bool:
    """Whether a tokenizer.json gives every CLIP token its id and merges in CLIP's order.

    Raises: CheckpointError when the file is no JSON object.
    """
    try:
        described = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read as JSON: {error}") from None
    model = described.get("model") if isinstance(described, dict) else None
    if not isinstance(model, dict):
        raise CheckpointError(f"{file}: holds no tokenizer (expected an object with a model)")
    merges = read_merges()
    return model.get("vocab") == token_ids(merges) and _parts(model.get("merges")) == merges


def _parts(merges: Any) -> list[tuple[Any, ...]]:
    """Merges as pairs: older files write "a b", newer ones ["a", "b"]."""
    if not isinstance(merges, list):
        return []
    return [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges]


class FileTokenizer(Tokenizer):
    """What a tokenizer.json describes, run by Hugging Face `tokenizers` on its own threads."""

    def __init__(self, file: Path, config: TextConfig) -> None:
        try:
            import tokenizers  # an extra: published CLIP checkpoints do without
        except ImportError:
            raise DependencyError(
                f"{file} describes a vocabulary that is not CLIP's, which needs the tokenizers package: "
                "pip install 'clipfast[tokenizers]'"
            ) from None
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(file.read_bytes())
        except ValueError as error:
            raise CheckpointError(f"{file}: cannot be read: {error}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        self._check(file, config)

    def _check(self, file: Path, config: TextConfig) -> None:
        if self._size > config.vocab_size:
            raise CheckpointError(
                f"{file}: has token ids up to {self._size - 1}, but the weights embed {config.vocab_size} tokens"
            )
        empty = self._tokenizer.encode("").ids
        if len(empty) != 2 or empty[1] != config.eot_id:
            raise CheckpointError(
                f"{file}: encodes an empty text as {empty}, expected a start-of-text token and the end-of-text token "
                f"{config.eot_id}"
            )

    def decode(self, ids: Iterable[int]) -> str:
        """As `Tokenizer.decode`, in the form that the file's decoder gives."""
        tokens = [int(token) for token in ids]
        if tokens and not 0 <= min(tokens) <= max(tokens) < self._size:
            raise ConfigurationError(
                f"got token ids from {min(tokens)} to {max(tokens)}, expected 0 to {self._size - 1}"
            )
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=False)
        return text

    def _rows(self, texts: list[str]) -> TokenRows:
        checked = [check_text(text, index) for index, text in enumerate(texts)]
        return PythonRows([row.ids for row in self._tokenizer.encode_batch_fast(checked)])
