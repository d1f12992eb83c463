import itertools

import numpy as np
import pytest

from clipfast.errors import ConfigurationError, InputError
from clipfast.inputs import load_tokenizer
from clipfast.inputs.bpe import WordEncoder
from clipfast.inputs.clean import clean, is_plain
from clipfast.inputs.vocabulary import load_vocabulary
from tests.inputs.oracles import ReferenceTokenizer

PUBLISHED = {
    "Hi": [1883],
    "How are you?": [829, 631, 592, 286],
    "I'm fine, thanks!": [328, 880, 3797, 267, 1085, 256],
    "hello world!!!": [3306, 1002, 995],
    "i've seen it": [328, 1200, 2041, 585],
    "Hello Båstad": [3306, 65, 23176, 16485],
    "A person riding a motorcycle": [320, 2533, 6765, 320, 10297],
}


@pytest.fixture(scope="module")
def reference():
    return ReferenceTokenizer()


@pytest.mark.parametrize("text", PUBLISHED)
def test_published_ids(text):
    assert load_tokenizer().encode(text) == PUBLISHED[text]


def test_special_tokens_and_padding():
    ids = load_tokenizer().tokenize(["hello world", ""])
    assert ids.dtype == np.int32
    assert ids.shape == (2, 77)
    assert ids[0, :5].tolist() == [49406, 3306, 1002, 49407, 0]
    assert ids[1, :3].tolist() == [49406, 49407, 0]


def test_truncation_keeps_the_end_token():
    tokenizer = load_tokenizer()
    for words, fits in ((74, True), (75, True), (76, False), (77, False)):
        text = " ".join(["cat"] * words)
        ids = tokenizer.tokenize(text, truncate=True)[0]
        expected = [49406, *[2368] * min(words, 75), 49407]
        assert ids[: len(expected)].tolist() == expected
        if not fits:
            with pytest.raises(InputError, match=f"{words + 2} tokens") as caught:
                tokenizer.tokenize(["ok", text])
            assert (caught.value.code, caught.value.index) == ("text_too_long", 1)


def test_pack_stops_at_the_first_end_token():
    packed = load_tokenizer().pack(["hello world", "cat<|endoftext|>dog", ""])
    assert packed.ids.tolist() == [49406, 3306, 1002, 49407, 49406, 2368, 49407, 49406, 49407]
    assert packed.cu_seqlens.tolist() == [0, 4, 7, 9]
    assert packed.ids.dtype == packed.cu_seqlens.dtype == np.int32


@pytest.mark.parametrize(
    ("texts", "code", "index"),
    [
        (["a", None], "wrong_type", 1),
        (["a", "b", b"c"], "wrong_type", 2),
        ([3], "wrong_type", 0),
        (["a\ud800"], "invalid_text", 0),
        (["a", "b " * 100], "text_too_long", 1),
    ],
)
def test_bad_texts_name_their_position(texts, code, index):
    for call in (load_tokenizer().tokenize, load_tokenizer().pack):
        with pytest.raises(InputError) as caught:
            call(texts)
        assert (caught.value.code, caught.value.index) == (code, index)


def test_decode_reverses_encode():
    tokenizer = load_tokenizer()
    text = "it 's a naïve café in 東京 , 1 2 3 🙂 "
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_arguments_outside_their_range():
    tokenizer = load_tokenizer()
    for ids in ([49408], [-1], [5, 10**6]):
        with pytest.raises(ConfigurationError, match="token ids"):
            tokenizer.decode(ids)
    for context_length in (1, 0, -5):
        with pytest.raises(ConfigurationError, match="context_length"):
            tokenizer.tokenize("a", context_length)
    with pytest.raises(InputError, match="one str") as caught:
        tokenizer.pack("a dog")
    assert caught.value.code == "wrong_type"
    assert tokenizer.tokenize("a", 2, truncate=True).tolist() == [[49406, 49407]]


def test_one_text_alone_has_no_position():
    for text, code in ((None, "wrong_type"), ("\ud800", "invalid_text")):
        with pytest.raises(InputError) as caught:
            load_tokenizer().encode(text)
        assert (caught.value.code, caught.value.index) == (code, None)


def test_long_words_take_bounded_time(reference):
    tokenizer = load_tokenizer()
    assert tokenizer.encode("ab" * 300) == reference.encode("ab" * 300)
    assert len(tokenizer.encode("a" * 200_000)) < 200_000


def test_plain_ascii_is_cleaned_alike(reference):
    rng = np.random.default_rng(3)
    alphabet = [chr(c) for c in range(0x20, 0x7F) if chr(c) != "&"] + list("\t\n\r  <>;#")
    for _ in range(2000):
        text = "".join(rng.choice(alphabet, rng.integers(0, 40)))
        assert is_plain(text)
        assert load_tokenizer().encode(text) == reference.encode(text)
    for text in ("a&amp;b", "a\x1b[0m", "a\x00", "é", "a\x0bb", "\x7f"):
        assert not is_plain(text)
    assert clean("  A\t b\r\nC ") == "a b c"


def test_more_words_than_are_remembered():
    """The word cache holds 65,536 words and then starts anew."""
    tokenizer = load_tokenizer()
    words = [
        "".join(letters)
        for letters in itertools.islice(itertools.product("etaoinshr", repeat=6), 70_000)
    ]
    texts = [" ".join(words[start : start + 70]) for start in range(0, len(words), 70)]
    encode_word = WordEncoder(load_vocabulary())
    expected = [
        [token for word in text.split() for token in encode_word(word.encode())] for text in texts
    ]
    for _ in range(2):
        packed = tokenizer.pack(texts, context_length=1000)
        for index, ids in enumerate(expected):
            row = packed.ids[packed.cu_seqlens[index] : packed.cu_seqlens[index + 1]]
            assert row.tolist() == [49406, *ids, 49407]
