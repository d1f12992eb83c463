"""Text to token ids, equal to the reference CLIP tokenizer's for every string it accepts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain

import numpy as np
import numpy.typing as npt

from clipfast.errors import InputError
from clipfast.inputs.bpe import SPECIALS, WORDS, WordEncoder
from clipfast.inputs.clean import clean
from clipfast.inputs.vocabulary import EOT_ID, SOT_ID, Vocabulary, load_vocabulary

IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True)
class PackedTexts:
    """Token rows one after another, without padding.

    ids: (T,) int32; sequence b is ids[cu_seqlens[b]:cu_seqlens[b+1]], from start-of-text to its first end-of-text.
    cu_seqlens: (N + 1,) int32.
    """

    ids: IntArray
    cu_seqlens: IntArray


class Tokenizer:
    """CLIP's byte-level BPE (vocabulary of 49,408). Safe to share between threads and forked processes.

    Literal "<|startoftext|>" and "<|endoftext|>" in a text become the special tokens, as in the reference.
    Source: Radford et al. 2021, section 2.4; algorithm of Sennrich et al. 2016, arXiv:1508.07909.
    """

    def __init__(self, vocabulary: Vocabulary | None = None) -> None:
        self._vocabulary = load_vocabulary() if vocabulary is None else vocabulary
        self._encode_word = WordEncoder(self._vocabulary)

    def encode(self, text: str) -> list[int]:
        """The token ids of `text`, without start- and end-of-text.

        Raises: InputError wrong_type when text is no str, invalid_text when it holds a lone surrogate.
        """
        ids: list[int] = []
        for word in WORDS.findall(clean(_checked(text))):
            special = SPECIALS.get(word)
            if special is None:
                ids += self._encode_word(word.encode("utf-8"))
            else:
                ids.append(special)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text that `ids` stand for: lower case, a space after each word; broken UTF-8 becomes U+FFFD."""
        table = self._vocabulary.token_bytes
        return b"".join(table[int(token)] for token in ids).decode("utf-8", errors="replace")

    def tokenize(
        self, texts: str | Sequence[str], context_length: int = 77, truncate: bool = False
    ) -> IntArray:
        """Rows of start-of-text, tokens, end-of-text, zeros.

        Args:
            texts: N strings, or one (N = 1).
            context_length: columns, C.
            truncate: cut a long text to C tokens, the last one end-of-text, where False raises.
        Returns: (N, C) int32.
        Raises: InputError text_too_long, invalid_text or wrong_type, naming the text's position.
        """
        rows = self._rows([texts] if isinstance(texts, str) else texts, context_length, truncate)
        padded = np.zeros((len(rows), context_length), np.int32)
        for index, row in enumerate(rows):
            padded[index, : len(row)] = row
        return padded

    def pack(
        self, texts: Sequence[str], context_length: int = 77, truncate: bool = False
    ) -> PackedTexts:
        """The rows of `tokenize` without padding and without what follows a row's first end-of-text.

        A causal tower pooled at the first end-of-text never sees what is left out.
        Raises: as `tokenize`.
        """
        rows = [row[: row.index(EOT_ID) + 1] for row in self._rows(texts, context_length, truncate)]
        cu_seqlens = np.zeros(len(rows) + 1, np.int32)
        np.cumsum([len(row) for row in rows], out=cu_seqlens[1:])
        ids = np.fromiter(chain.from_iterable(rows), np.int32, int(cu_seqlens[-1]))
        return PackedTexts(ids, cu_seqlens)

    def _rows(self, texts: Sequence[str], context_length: int, truncate: bool) -> list[list[int]]:
        rows = []
        for index, text in enumerate(texts):
            try:
                row = [SOT_ID, *self.encode(text), EOT_ID]
            except InputError as error:
                raise error.at(index) from None
            if len(row) > context_length:
                if not truncate:
                    raise too_long(text, len(row), context_length, index)
                row[context_length - 1 :] = [EOT_ID]
            rows.append(row)
        return rows


def too_long(text: str, tokens: int, context_length: int, index: int) -> InputError:
    """The error for a text of `tokens` tokens (both specials counted) where `context_length` fit."""
    excerpt = text if len(text) <= 60 else text[:57] + "..."
    return InputError(
        f"text of {tokens} tokens (start and end included) where at most {context_length} fit: {excerpt!r}; "
        "shorten it, or pass truncate=True to cut it",
        code="text_too_long",
        index=index,
    )


def _checked(text: object) -> str:
    """`text` when it can be tokenized. Raises: InputError wrong_type, invalid_text."""
    if not isinstance(text, str):
        raise InputError(f"got {type(text).__name__}, expected a str", code="wrong_type")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"lone surrogate {text[error.start]!r} at character {error.start}: UTF-8 cannot encode it; "
            'decode the text properly, or replace it with text.encode("utf-8", "replace").decode()',
            code="invalid_text",
        ) from None
    return text


@cache
def load_tokenizer() -> Tokenizer:
    """The tokenizer of every OpenAI-layout CLIP model, made once per process."""
    return Tokenizer()
