"""Independent statements of what the inputs must equal: Pillow's whole resize, and the textbook BPE loop."""

from __future__ import annotations

import gzip
import html
from functools import lru_cache
from itertools import pairwise

import ftfy
import numpy as np
import regex
from PIL import Image

from clipfast.inputs.vocabulary import merges_bytes

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def reference_pixels(image, size, interpolation="bicubic", resize_mode="shortest"):
    """torchvision's Resize and CenterCrop on a PIL image, then convert("RGB"): (size, size, 3) uint8."""
    width, height = image.size
    if resize_mode == "squash":
        target = (size, size)
    elif width <= height:
        target = (size, int(size * height / width))
    else:
        target = (int(size * width / height), size)
    if image.size != target:
        image = image.resize(target, FILTERS[interpolation])
    left, top = round((target[0] - size) / 2.0), round((target[1] - size) / 2.0)
    return np.asarray(image.crop((left, top, left + size, top + size)).convert("RGB"))


def pixel_cosine(a, b):
    """The cosine of two images' pixels, less a mean of 117."""
    a, b = (x.astype(np.float64).ravel() - 117 for x in (a, b))
    return a @ b / np.sqrt((a @ a) * (b @ b))


class ReferenceTokenizer:
    """CLIP's tokenizer as its paper and documentation describe it, on strings and merge rounds, without shortcuts."""

    pattern = regex.compile(
        r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
        regex.IGNORECASE,
    )

    def __init__(self):
        merges = gzip.decompress(merges_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
        self.ranks = {tuple(merge.split()): rank for rank, merge in enumerate(merges)}
        visible = [
            *range(ord("!"), ord("~") + 1),
            *range(ord("¡"), ord("¬") + 1),
            *range(ord("®"), ord("ÿ") + 1),
        ]
        self.alphabet = {byte: chr(byte) for byte in visible}
        for byte in range(256):
            if byte not in self.alphabet:
                self.alphabet[byte] = chr(256 + len(self.alphabet) - len(visible))
        symbols = list(self.alphabet.values())
        vocabulary = symbols + [symbol + "</w>" for symbol in symbols]
        vocabulary += ["".join(merge.split()) for merge in merges]
        vocabulary += ["<|startoftext|>", "<|endoftext|>"]
        self.ids = {symbol: index for index, symbol in enumerate(vocabulary)}
        self.word = lru_cache(maxsize=100_000)(self.word)

    def word(self, token):
        if token in ("<|startoftext|>", "<|endoftext|>"):
            return (self.ids[token],)
        parts = [self.alphabet[byte] for byte in token.encode("utf-8")]
        parts[-1] += "</w>"
        while len(parts) > 1:
            pairs = set(pairwise(parts))
            best = min(pairs, key=lambda pair: self.ranks.get(pair, 1 << 30))
            if best not in self.ranks:
                break
            merged, index = [], 0
            while index < len(parts):
                if tuple(parts[index : index + 2]) == best:
                    merged.append("".join(best))
                    index += 2
                else:
                    merged.append(parts[index])
                    index += 1
            parts = merged
        return tuple(self.ids[part] for part in parts)

    def encode(self, text):
        text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
        text = regex.sub(r"\s+", " ", text).strip().lower()
        return [token for word in regex.findall(self.pattern, text) for token in self.word(word)]
