"""Text cleaning as the reference tokenizer does it: ftfy, HTML entities, whitespace, lower case."""

from __future__ import annotations

import html
import re
from typing import Final

import regex

# On these characters every cleaning step but the whitespace and case ones is the identity: ftfy acts on entities,
# control characters, escapes and non-ASCII only.
_PLAIN: Final = re.compile(r"[\t\n\r\x20-\x25\x27-\x7e]*")
_WHITESPACE: Final = regex.compile(r"\s+")


def is_plain(text: str) -> bool:
    """Whether `text` is printable ASCII without "&", so that cleaning is whitespace collapse and lower case."""
    return _PLAIN.fullmatch(text) is not None


def clean(text: str) -> str:
    """`text` as CLIP was trained on it: repaired, unescaped twice, whitespace collapsed, stripped, lower case."""
    if is_plain(text):
        return " ".join(text.split()).lower()
    import ftfy  # only what is not plain waits for it

    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    collapsed: str = _WHITESPACE.sub(" ", text).strip()
    return collapsed.lower()
