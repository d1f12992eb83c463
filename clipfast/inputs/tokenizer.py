"""Text to token ids, equal to the reference CLIP tokenizer's for every string it accepts.

Printable ASCII is split, merged and packed in C++ without the GIL; other text is cleaned and split in Python first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from clipfast.errors import ConfigurationError, InputError
from clipfast.inputs import native
from clipfast.inputs.bpe import WORDS, WordEncoder
from clipfast.inputs.clean import clean
from clipfast.inputs.token_rows import Int32, NativeRows, PackedTexts, PythonRows, TokenRows
from clipfast.inputs.vocabulary import EOT_ID, SOT_ID, Vocabulary, load_vocabulary

if TYPE_CHECKING:
    from clipfast import _native

__all__ = ["ClipTokenizer", "PackedTexts", "Tokenizer", "check_text", "load_tokenizer"]

_WORD_SEPARATOR = b"\xff"  # in no UTF-8 text
_SPECIALS = {b"<|startoftext|>": SOT_ID, b"<|endoftext|>": EOT_ID}


class Tokenizer(ABC):
    """Texts to rows of token ids, padded or packed. Safe to share between threads and forked processes."""

    @abstractmethod
    def _rows(self, texts: list[str]) -> TokenRows:
        """Whole rows, from start-of-text to end-of-text. Raises: InputError invalid_text, wrong_type with index."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text that `ids` stand for. Raises: ConfigurationError when an id is outside the vocabulary."""

    def encode(self, text: str) -> list[int]:
        """The token ids of `text`, without start- and end-of-text.

        Raises: InputError wrong_type when text is no str, invalid_text when it holds a lone surrogate.
        """
        try:
            rows = self._rows([text])
        except InputError as error:
            raise InputError(error.message, code=error.code) from None
        ids: list[int] = rows.padded(int(rows.lengths()[0]))[0, 1:-1].tolist()
        return ids

    def tokenize(
        self, texts: str | Sequence[str], context_length: int = 77, truncate: bool = False
    ) -> Int32:
        """Rows of start-of-text, tokens, end-of-text, zeros.

        Args:
            texts: N strings, or one (N = 1).
            context_length: columns, C.
            truncate: cut a long text to C tokens, the last one end-of-text, where False raises.
        Returns: (N, C) int32.
        Raises: InputError text_too_long, invalid_text or wrong_type, naming the text's position.
        """
        items = [texts] if isinstance(texts, str) else texts
        return self._fitting(items, context_length, truncate).padded(context_length)

    def pack(
        self, texts: Sequence[str], context_length: int = 77, truncate: bool = False
    ) -> PackedTexts:
        """The rows of `tokenize` without padding and without what follows a row's first end-of-text.

        A causal tower pooled at the first end-of-text never sees what is left out.
        Raises: as `tokenize`; InputError wrong_type also when `texts` is one str.
        """
        if isinstance(texts, str):
            raise InputError("got one str, expected a list of them", code="wrong_type")
        return self._fitting(texts, context_length, truncate).packed(context_length)

    def _fitting(self, texts: Iterable[str], context_length: int, truncate: bool) -> TokenRows:
        """The rows of texts, all of which fit unless they may be truncated."""
        if context_length < 2:
            raise ConfigurationError(
                f"got context_length={context_length}, expected at least 2: start and end of text"
            )
        items = list(texts)
        rows = self._rows(items)
        if not truncate:
            lengths = rows.lengths()
            for index in np.flatnonzero(lengths > context_length)[:1]:
                raise _too_long(items[index], int(lengths[index]), context_length, int(index))
        return rows


class ClipTokenizer(Tokenizer):
    """CLIP's byte-level BPE (vocabulary of 49,408).

    Literal "<|startoftext|>" and "<|endoftext|>" in a text become the special tokens, as in the reference.
    Source: Radford et al. 2021, section 2.4; algorithm of Sennrich et al. 2016, arXiv:1508.07909.
    """

    def __init__(self) -> None:
        self._vocabulary = load_vocabulary()
        self._native = _native_tokenizer(self._vocabulary) if native.BUILT else None
        self._encode_word = WordEncoder(self._vocabulary)

    def decode(self, ids: Iterable[int]) -> str:
        """The text that `ids` stand for: lower case, a space after each word; broken UTF-8 becomes U+FFFD.

        Raises: ConfigurationError when an id is outside the vocabulary.
        """
        table, tokens = self._vocabulary.token_bytes, [int(token) for token in ids]
        if tokens and not 0 <= min(tokens) <= max(tokens) < len(table):
            raise ConfigurationError(
                f"got token ids from {min(tokens)} to {max(tokens)}, expected 0 to {len(table) - 1}"
            )
        return b"".join(table[token] for token in tokens).decode("utf-8", errors="replace")

    def _rows(self, texts: list[str]) -> TokenRows:
        if self._native is None:
            return PythonRows([self._row(_split(text, index)) for index, text in enumerate(texts)])
        from clipfast import _native

        prepared: list[object] = list(texts)
        for index in _native.unusual_texts(prepared):
            prepared[index] = _WORD_SEPARATOR.join(_split(prepared[index], index))
        return NativeRows(self._native.encode(prepared), len(prepared))

    def _row(self, words: list[bytes]) -> list[int]:
        ids = [SOT_ID]
        for word in words:
            special = _SPECIALS.get(word)
            ids += self._encode_word(word) if special is None else [special]
        return [*ids, EOT_ID]


def _native_tokenizer(vocabulary: Vocabulary) -> _native.Tokenizer:
    from clipfast import _native

    byte_ids = np.array(vocabulary.byte_ids, np.int32)
    merges = np.array(list(vocabulary.merges), np.int32)  # in rank order
    return _native.Tokenizer(byte_ids.ctypes.data, merges.ctypes.data, len(merges))


def _split(text: object, index: int) -> list[bytes]:
    """The words of the cleaned text in UTF-8. Raises: InputError wrong_type, invalid_text."""
    cleaned = check_text(clean(check_text(text, index)), index)
    return [word.encode("utf-8") for word in WORDS.findall(cleaned)]


def check_text(text: object, index: int) -> str:
    """`text`, a str that UTF-8 can encode. Raises: InputError wrong_type, invalid_text, with the index."""
    if not isinstance(text, str):
        raise InputError(
            f"got {type(text).__name__}, expected a str", code="wrong_type", index=index
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"lone surrogate {error.object[error.start]!r} in {error.object[:40]!r}: UTF-8 cannot encode it; "
            'decode the text properly, or replace it with text.encode("utf-8", "replace").decode()',
            code="invalid_text",
            index=index,
        ) from None
    return text


def _too_long(text: str, tokens: int, context_length: int, index: int) -> InputError:
    excerpt = text if len(text) <= 60 else text[:57] + "..."
    return InputError(
        f"text of {tokens} tokens (start and end included) where at most {context_length} fit: {excerpt!r}; "
        "shorten it, or pass truncate=True to cut it",
        code="text_too_long",
        index=index,
    )


@cache
def load_tokenizer() -> ClipTokenizer:
    """CLIP's tokenizer, made once per process."""
    return ClipTokenizer()
