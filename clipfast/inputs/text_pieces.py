"""A stream of texts in pieces of a bounded size, tokenized one piece ahead of who encodes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from clipfast.errors import InputError
from clipfast.inputs.tokenizer import PackedTexts, Tokenizer


def packed_pieces(
    texts: Iterable[str], tokenizer: Tokenizer, context_length: int, truncate: bool, size: int
) -> Iterator[PackedTexts]:
    """At most `size` texts at a time, in order; the next piece is tokenized while the last one is used.

    Raises: InputError text_too_long, invalid_text or wrong_type, with the index in the whole stream.
    """
    stream = iter(texts)

    def next_piece(start: int) -> PackedTexts | None:
        piece = list(islice(stream, size))
        if not piece:
            return None
        try:
            return tokenizer.pack(piece, context_length, truncate)
        except InputError as error:
            raise error if error.index is None else error.at(start + error.index) from None

    packed = next_piece(0)
    start = 0
    with ThreadPoolExecutor(1, "clipfast-tokenize") as ahead:
        while packed is not None:
            start += len(packed.cu_seqlens) - 1
            if start % size:  # a short piece is the last one
                yield packed
                return
            following = ahead.submit(next_piece, start)
            yield packed
            packed = following.result()
