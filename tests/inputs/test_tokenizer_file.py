"""Checkpoints that bring a tokenizer.json: with CLIP's vocabulary it changes nothing, with another it is obeyed."""

import json
import sys

import numpy as np
import pytest
import tokenizers
import torch
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, processors

import clipfast
from clipfast.errors import CheckpointError, ConfigurationError, DependencyError, InputError
from clipfast.export.onnx import export_onnx
from clipfast.inputs import load_tokenizer
from clipfast.inputs.tokenizer_file import FileTokenizer, holds_clip_vocabulary, tokenizer_of
from clipfast.inputs.vocabulary import read_merges, token_ids
from tests.weights import random_weights, save_as, tiny

CONFIG = tiny().text
MERGES = read_merges()
IDS = token_ids(MERGES)
SWAPPED = {"cat</w>": IDS["dog</w>"], "dog</w>": IDS["cat</w>"]}
WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
TEXTS = ["a cat", "two dogs and 3 cats", "", "naïve café in 東京", "cat<|endoftext|>dog"]


def write(path, ids, merges=MERGES, *, ends=True):
    """A tokenizer.json as transformers writes it for CLIP, over these ids."""
    bpe = models.BPE(ids, merges, end_of_word_suffix="</w>", unk_token="<|endoftext|>")
    described = tokenizers.Tokenizer(bpe)
    collapse = normalizers.Replace(Regex(r"\s+"), " ")
    described.normalizer = normalizers.Sequence(
        [normalizers.NFC(), collapse, normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    described.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    described.add_special_tokens(
        [AddedToken(text, special=True) for text in ("<|startoftext|>", "<|endoftext|>")]
    )
    if ends:
        described.post_processor = processors.RobertaProcessing(
            sep=("<|endoftext|>", 49407),
            cls_token=("<|startoftext|>", 49406),
            trim_offsets=False,
            add_prefix_space=False,
        )
    described.enable_truncation(5)
    described.enable_padding(length=9)
    described.save(str(path))
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write(tmp_path_factory.mktemp("clips") / "tokenizer.json", IDS)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return write(tmp_path_factory.mktemp("other") / "tokenizer.json", IDS | SWAPPED)


def swap(ids):
    """What CLIP's ids become under SWAPPED."""
    cat, dog = IDS["cat</w>"], IDS["dog</w>"]
    return np.where(ids == cat, dog, np.where(ids == dog, cat, ids))


def test_clips_own_vocabulary_is_ours_to_encode(clips, other, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)  # not even imported
    assert holds_clip_vocabulary(clips)
    assert tokenizer_of(clips, CONFIG) is tokenizer_of(None, CONFIG) is load_tokenizer()
    described = json.loads(clips.read_text("utf-8"))
    described["model"]["merges"] = [" ".join(pair) for pair in MERGES]
    older = tmp_path / "tokenizer.json"
    older.write_text(json.dumps(described), "utf-8")
    assert holds_clip_vocabulary(older)
    described["model"]["merges"].reverse()
    older.write_text(json.dumps(described), "utf-8")
    assert not holds_clip_vocabulary(older)
    assert not holds_clip_vocabulary(other)
    with pytest.raises(DependencyError, match=r"clipfast\[tokenizers\]"):
        tokenizer_of(other, CONFIG)


def test_another_vocabulary_is_obeyed(other):
    """Rows of both vocabularies differ by the swap, whole, padded, packed and cut."""
    own, clip = tokenizer_of(other, CONFIG), load_tokenizer()
    assert isinstance(own, FileTokenizer)
    for context_length in (77, 5):
        expected = swap(clip.tokenize(TEXTS, context_length, truncate=True))
        np.testing.assert_array_equal(own.tokenize(TEXTS, context_length, truncate=True), expected)
        packed = own.pack(TEXTS, context_length, truncate=True)
        expected = clip.pack(TEXTS, context_length, truncate=True)
        np.testing.assert_array_equal(packed.ids, swap(expected.ids))
        np.testing.assert_array_equal(packed.cu_seqlens, expected.cu_seqlens)
    assert own.encode("a cat") == [IDS["a</w>"], IDS["dog</w>"]]
    assert own.tokenize([], 77).shape == (0, 77)
    assert "cat" in own.decode([IDS["dog</w>"]])
    with pytest.raises(ConfigurationError, match="token ids"):
        own.decode([49408])


@pytest.mark.parametrize(
    ("text", "code"),
    [(None, "wrong_type"), ("a\ud800", "invalid_text"), ("cat " * 80, "text_too_long")],
)
def test_bad_texts_name_their_position(text, code, other):
    with pytest.raises(InputError) as caught:
        FileTokenizer(other, CONFIG).pack(["a", text])
    assert (caught.value.code, caught.value.index) == (code, 1)


def test_files_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    for content in ("", "[]", "{}", '{"model": 3}', "\ud800".encode("utf-8", "surrogatepass")):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
            tokenizer_of(path, CONFIG)
    path.write_text('{"model": {"type": "none"}}')
    with pytest.raises(CheckpointError, match="cannot be read"):
        tokenizer_of(path, CONFIG)
    write(path, IDS | SWAPPED, ends=False)
    with pytest.raises(CheckpointError, match=r"encodes an empty text as \[\]"):
        tokenizer_of(path, CONFIG)
    write(path, IDS | SWAPPED | {"one more": 49408})
    with pytest.raises(CheckpointError, match=r"up to 49408.* embed 49408 tokens"):
        tokenizer_of(path, CONFIG)


def test_a_model_follows_the_file_beside_its_weights(clips, other, tmp_path):
    config = tiny()
    source = save_as("hf", random_weights(config, seed=0), config, tmp_path / "model")
    options = {"device": "cpu", "precision": "fp32"}
    plain = clipfast.load(source, **options)
    expected = plain.encode_texts(["a cat", "a dog"])
    (source / "tokenizer.json").write_bytes(clips.read_bytes())
    assert torch.equal(clipfast.load(source, **options).encode_texts(["a cat", "a dog"]), expected)
    (source / "tokenizer.json").write_bytes(other.read_bytes())
    model = clipfast.load(source, **options)
    assert torch.equal(model.encode_texts(["a dog", "a cat"]), expected)
    np.testing.assert_array_equal(model.tokenize("a dog"), plain.tokenize("a cat"))


def test_an_export_cannot_carry_another_tokenizer(other, tmp_path):
    config = tiny()
    source = save_as("hf", random_weights(config, seed=0), config, tmp_path / "model")
    (source / "tokenizer.json").write_bytes(other.read_bytes())
    checkpoint = clipfast.checkpoint.load_checkpoint(source)
    with pytest.raises(clipfast.errors.UnsupportedError, match=r"tokenizer\.json"):
        export_onnx(checkpoint, tmp_path / "export", tower="text")
    assert not (tmp_path / "export").exists()
