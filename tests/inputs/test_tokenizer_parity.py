"""Ids against three oracles: the textbook algorithm, open_clip's tokenizer and instant-clip-tokenizer."""

import html
import json
import unicodedata
from pathlib import Path

import ftfy
import numpy as np
import pytest
import regex

from benchmarks.peers.modules import import_open_clip
from clipfast.inputs import native
from clipfast.inputs.tokenizer import ClipTokenizer
from clipfast.templates import IMAGENET, IMAGENET_CLASSNAMES
from tests.inputs.oracles import ReferenceTokenizer

SPECIALS = ["<|startoftext|>", "<|endoftext|>", "<start_of_text>", "<end_of_text>"]
HAND_MADE: list[str] = json.loads(Path(__file__).with_name("texts.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def reference():
    return ReferenceTokenizer()


@pytest.fixture(scope="module", params=["native", "python"])
def tokenizer(request):
    if request.param == "native" and not native.BUILT:
        pytest.skip("built without the C++ extension")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "BUILT", request.param == "native")
        return ClipTokenizer()


def fuzzed_texts(count, seed):
    """Strings that mix scripts, assigned and unassigned code points, entities, mojibake, controls and specials."""
    rng = np.random.default_rng(seed)
    pieces = [
        *SPECIALS,
        "&amp;",
        "&lt;",
        "&#x1F600;",
        "&quot",
        "Ã©",
        "â€™",
        "'\u017f",
        "'S",
        "'re",
        " ",
        "  ",
        "\n",
        "\u00a0",
        "\u0345",
    ]
    blocks = [
        (0x20, 0x7F),
        (0, 0x20),
        (0x7F, 0x250),
        (0x250, 0x800),
        (0x800, 0x2000),
        (0x2000, 0x2C00),
        (0x2C00, 0xD800),
    ]
    blocks += [(0xE000, 0x10000), (0x10000, 0x20000), (0x1F300, 0x1FB00), (0x20000, 0x110000)]
    for _ in range(count):
        text = []
        for _ in range(int(rng.integers(1, 12))):
            if rng.random() < 0.3:
                text.append(pieces[rng.integers(len(pieces))])
            else:
                low, high = blocks[min(int(rng.exponential(2.5)), len(blocks) - 1)]
                text.extend(chr(code) for code in rng.integers(low, high, rng.integers(1, 8)))
        yield "".join(text)


def assert_equal_ids(tokenizer, expected, texts):
    packed = tokenizer.pack(texts, context_length=10_000)
    for index, text in enumerate(texts):
        want = [49406, *expected(text), 49407]
        want = want[: want.index(49407) + 1]
        got = packed.ids[packed.cu_seqlens[index] : packed.cu_seqlens[index + 1]].tolist()
        assert got == want, ascii(text)


def test_hand_made_texts(tokenizer, reference):
    assert_equal_ids(tokenizer, reference.encode, HAND_MADE)
    for text in HAND_MADE:
        assert tokenizer.encode(text) == reference.encode(text), ascii(text)


def test_fuzzed_texts(tokenizer, reference):
    assert_equal_ids(tokenizer, reference.encode, list(fuzzed_texts(1500, 1)))


def test_imagenet_prompts(tokenizer, reference):
    prompts = [t.format(name) for t in IMAGENET[::20] for name in IMAGENET_CLASSNAMES]
    assert_equal_ids(tokenizer, reference.encode, prompts)


def test_padded_rows_equal_packed_rows(tokenizer):
    texts = [text for text in HAND_MADE if "|>" not in text]
    packed, padded = (
        tokenizer.pack(texts, 77, truncate=True),
        tokenizer.tokenize(texts, 77, truncate=True),
    )
    for index, row in enumerate(padded):
        ids = packed.ids[packed.cu_seqlens[index] : packed.cu_seqlens[index + 1]]
        assert row[: len(ids)].tolist() == ids.tolist()
        assert not row[len(ids) :].any()


def open_clip_encode():
    """open_clip's own splitting and merging after the reference's cleaning: its whitespace rule differs."""
    import_open_clip()
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    tokenizer.clean_fn = reference_clean
    return tokenizer.encode


def reference_clean(text):
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return regex.sub(r"\s+", " ", text).strip().lower()


def without_specials(texts):
    """open_clip's literal special tokens are others, so texts that hold any are left out."""
    return [
        text
        for text in texts
        if not any(special in reference_clean(text).casefold() for special in SPECIALS)
    ]


def instant_encode():
    """instant-clip-tokenizer after the reference's cleaning, which it leaves out."""
    module = pytest.importorskip(
        "instant_clip_tokenizer", reason="instant-clip-tokenizer has no wheel here"
    )
    tokenizer = module.Tokenizer()
    return lambda text: tokenizer.encode(reference_clean(text))


def of_older_unicode(texts):
    """instant-clip-tokenizer's tables are older than Python's: without marks, unassigned characters and long s."""
    return [
        text
        for text in without_specials(texts)
        if not any(
            unicodedata.category(c) in ("Cn", "Mn", "Co") or c == "\u017f"
            for c in reference_clean(text)
        )
    ]


def reference_encode():
    return ReferenceTokenizer().encode


# What makes each oracle, and the texts on which it is one.
ORACLES = {
    "reference": (reference_encode, list),
    "open_clip": (open_clip_encode, without_specials),
    "instant_clip_tokenizer": (instant_encode, of_older_unicode),
}


@pytest.mark.parametrize("oracle", ["open_clip", "instant_clip_tokenizer"])
def test_equals_other_libraries(tokenizer, oracle):
    make, understood = ORACLES[oracle]
    encode, texts = make(), understood(HAND_MADE + list(fuzzed_texts(2500, 2)))
    assert len(texts) > 500
    assert_equal_ids(tokenizer, encode, texts)


@pytest.fixture(scope="module")
def many_texts():
    return list(fuzzed_texts(100_000, 4))


@pytest.mark.slow
@pytest.mark.parametrize("oracle", ORACLES)
def test_one_hundred_thousand_fuzzed_texts(many_texts, oracle):
    make, understood = ORACLES[oracle]
    encode, texts = make(), understood(many_texts)
    print(f"{len(texts)} of {len(many_texts)} fuzzed texts have {oracle}'s ids")
    assert len(texts) > 20_000
    assert_equal_ids(ClipTokenizer(), encode, texts)


@pytest.mark.slow
@pytest.mark.parametrize("oracle", ORACLES)
def test_every_imagenet_prompt(oracle):
    make, understood = ORACLES[oracle]
    prompts = [template.format(name) for template in IMAGENET for name in IMAGENET_CLASSNAMES]
    assert len(prompts) == len(understood(prompts)) == 80_000
    assert_equal_ids(ClipTokenizer(), make(), prompts)
