"""image_tokens and text_tokens are transformers' hidden states."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import clipfast
from tests.parity.references import normalised, transformers_model
from tests.parity.test_families import pixels_for
from tests.tolerances import HIDDEN_STATE_RELATIVE
from tests.weights import random_weights, save_as, tiny, tiny_resnet

TEXTS = ["a cat", "a photo of two dogs", ""]


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_as("hf", random_weights(tiny(), seed=0), tiny(), tmp_path_factory.mktemp("hf"))


def close(got: torch.Tensor, truth: torch.Tensor) -> bool:
    assert got.shape == truth.shape
    return bool((got - truth).abs().max() <= HIDDEN_STATE_RELATIVE * truth.abs().max())


def test_hidden_states_equal_transformers(hugging_face: Path) -> None:
    reference = transformers_model(hugging_face)
    model = clipfast.load(hugging_face, precision="fp32")
    pixels = pixels_for(tiny(), 2)
    ids = model.tokenize(TEXTS)
    padded = torch.from_numpy(ids).long()
    lengths = (padded == 49407).int().argmax(dim=1)
    for row, length in zip(padded, lengths, strict=True):
        row[length:] = 49407
    with torch.inference_mode():
        images = reference.vision_model(normalised(pixels, tiny()), output_hidden_states=True)
        texts = reference.text_model(padded, output_hidden_states=True)
    for layer in (0, 1, 2, -1, -3):
        assert close(model.image_tokens(pixels, layer=layer), images.hidden_states[layer])
        assert close(
            model.text_tokens(TEXTS, layer=layer, pad_id=49407), texts.hidden_states[layer]
        )
    assert close(model.image_tokens(pixels, layer="final"), images.last_hidden_state)
    assert close(model.text_tokens(TEXTS, layer="final", pad_id=49407), texts.last_hidden_state)


def test_rows_after_eot_are_those_of_the_pad_token(hugging_face: Path) -> None:
    model = clipfast.load(hugging_face, precision="fp32")
    zeros, eots = (model.text_tokens(["a cat"], pad_id=pad)[0] for pad in (0, 49407))
    assert torch.equal(zeros[:4], eots[:4])
    assert (zeros[4:] - eots[4:]).abs().max() > 0.1


def test_nothing_in_nothing_out(model: clipfast.Model) -> None:
    assert model.image_tokens([]).shape == (0, 17, 128)
    assert model.text_tokens([]).shape == (0, 77, 64)


def test_refusals(model: clipfast.Model, tmp_path: Path) -> None:
    for layer in (3, -4, "last"):
        with pytest.raises(clipfast.ConfigurationError, match="expected"):
            model.image_tokens([], layer=layer)  # type: ignore[arg-type]
    config = tiny_resnet()
    resnet = clipfast.load(
        save_as("open_clip_directory", random_weights(config, seed=0), config, tmp_path)
    )
    with pytest.raises(clipfast.UnsupportedError, match="ResNet"):
        resnet.image_tokens([])
    with pytest.raises(clipfast.InputError):
        model.image_tokens([b"broken"])
