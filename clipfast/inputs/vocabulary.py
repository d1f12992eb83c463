"""CLIP's byte-level vocabulary: 256 bytes, 256 bytes that end a word, 48,894 merges, two specials.

Ids follow that order. Source: Radford et al. 2019 (GPT-2's byte alphabet) and Radford et al. 2021, section 2.4.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

MERGES_FILE = "bpe_simple_vocab_16e6.txt.gz"
MERGES = 48_894
SPECIALS = ("<|startoftext|>", "<|endoftext|>")
SOT_ID = 49_406
EOT_ID = 49_407


@dataclass(frozen=True)
class Vocabulary:
    """Merges over token ids.

    byte_ids: 256 ids; byte b inside a word is byte_ids[b], at the end of a word byte_ids[b] + 256.
    merges: (left id, right id) -> merged id. Merged ids grow with merge rank, so the smallest id merges first.
    token_bytes: id -> the bytes it stands for; a token that ends a word ends with a space.
    """

    byte_ids: tuple[int, ...]
    merges: dict[tuple[int, int], int]
    token_bytes: tuple[bytes, ...]


def _byte_order() -> list[int]:
    """The 256 bytes in vocabulary order: the printable Latin-1 characters first, then the rest ascending."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return printable + [byte for byte in range(256) if byte not in set(printable)]


def _symbols(order: list[int]) -> list[str]:
    """The character that writes each byte of `order` in the merges file: itself, or one from U+0100 on."""
    printable = 256 - 68
    return [chr(byte) for byte in order[:printable]] + [chr(256 + n) for n in range(68)]


def merges_bytes() -> bytes:
    """The merges file as packaged, gzip-compressed."""
    return files("clipfast.inputs").joinpath("data", MERGES_FILE).read_bytes()


def read_merges() -> list[tuple[str, str]]:
    """The two parts of every merge as the merges file writes them, in rank order."""
    lines = gzip.decompress(merges_bytes()).decode("utf-8").split("\n")[1 : MERGES + 1]
    return [(left, right) for left, right in map(str.split, lines)]


def token_ids(merges: list[tuple[str, str]]) -> dict[str, int]:
    """Every token as the merges file writes it -> its id."""
    symbols = _symbols(_byte_order())
    tokens = [*symbols, *(f"{symbol}</w>" for symbol in symbols)]
    tokens += [left + right for left, right in merges]
    return {token: index for index, token in enumerate([*tokens, *SPECIALS])}


@cache
def load_vocabulary() -> Vocabulary:
    """The vocabulary of every OpenAI-layout CLIP model (read once per process)."""
    written = read_merges()
    ids = token_ids(written)
    order = _byte_order()
    token_bytes = [bytes([byte]) for byte in order]
    token_bytes += [bytes([byte]) + b" " for byte in order]
    merges: dict[tuple[int, int], int] = {}
    for left, right in written:
        pair = (ids[left], ids[right])
        merges[pair] = ids[left + right]
        token_bytes.append(token_bytes[pair[0]] + token_bytes[pair[1]])
    token_bytes += [special.encode() for special in SPECIALS]
    byte_ids = [0] * 256
    for index, byte in enumerate(order):
        byte_ids[byte] = index
    return Vocabulary(tuple(byte_ids), merges, tuple(token_bytes))
