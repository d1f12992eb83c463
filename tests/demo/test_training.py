"""Training: its batches, its losses against their formulas, and what it leaves on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from clipfast.checkpoint import load_checkpoint
from clipfast.demo import train
from clipfast.demo.architecture import CONFIG, WEIGHTS, initial_tensors
from clipfast.demo.batches import SceneBatches, Vocabulary
from clipfast.demo.captions import ATTRIBUTES
from clipfast.demo.digits import load_handwriting
from clipfast.demo.fit_text import contrastive_loss
from clipfast.demo.fit_vision import WEIGHTS as ATTRIBUTE_WEIGHTS
from clipfast.demo.fit_vision import attribute_loss, learning_rate, variety
from clipfast.inputs import load_tokenizer


def test_a_batch_depends_on_stream_and_index_alone():
    handwriting, _ = load_handwriting()
    batches = SceneBatches(handwriting, lambda _: 1.0, stream=1, size=6, image_size=112)
    for i, batch in enumerate(batches.prefetch(3)):
        assert torch.equal(batch.pixels, batches(i).pixels)
        assert batch.scenes == batches(i).scenes
    assert not torch.equal(batches(0).pixels, batches(1).pixels)
    assert batches(0).pixels.shape == (6, 3, 112, 112)


def test_packed_texts_are_the_tokenizers():
    vocabulary = Vocabulary(seed=1, captions=3000)
    texts = ["a red circle.", "the digit seven on a white background"]
    rows = vocabulary.pack(texts)
    padded = load_tokenizer().tokenize(texts)
    for text, row in enumerate(padded):
        start, stop = rows.cu_seqlens[text : text + 2].tolist()
        tokens = vocabulary.tokens[rows.ids[start:stop].long()]
        assert tokens.tolist() == row[row > 0].tolist()
        assert rows.positions[start:stop].tolist() == list(range(stop - start))


def test_the_contrastive_loss_is_cross_entropy_against_what_is_false():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(5, 5, generator=generator)
    truth = torch.eye(5, dtype=torch.bool)
    truth[0, 3] = truth[2, 1] = True
    terms = []
    for i in range(5):
        for line, true in ((logits[i], truth[i]), (logits[:, i], truth[:, i])):
            kept = [float(line[j]) for j in range(5) if j == i or not true[j]]
            terms.append(np.log(np.exp(kept).sum()) - float(logits[i, i]))
    assert contrastive_loss(logits, truth).item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_the_attribute_loss_weighs_each_attribute():
    heads = {name: torch.nn.Linear(CONFIG.embed_dim, len(v)) for name, v in ATTRIBUTES.items()}
    for head in heads.values():
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
    labels = torch.zeros(3, len(ATTRIBUTES), dtype=torch.int64)
    loss = attribute_loss(heads, torch.randn(3, CONFIG.embed_dim), labels)
    expected = sum(ATTRIBUTE_WEIGHTS[name] * np.log(len(v)) for name, v in ATTRIBUTES.items())
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_schedules():
    assert [variety(p) for p in (0.0, 0.05, 0.2, 0.35, 1.0)] == pytest.approx(
        [0.0, 0.0, 0.5, 1.0, 1.0]
    )
    rates = [learning_rate(step, 1000) for step in (0, 39, 40, 999)]
    assert rates[0] == pytest.approx(1 / 40)
    assert rates[1] == 1.0
    assert rates[2] == pytest.approx(1.01)
    assert 0.01 <= rates[3] < 0.011


@pytest.mark.slow
def test_training_writes_a_model_that_loads_and_a_card(tmp_path: Path):
    train.main(["--vision-steps", "3", "--text-steps", "2", "--output", str(tmp_path)])
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.config.vision == CONFIG.vision
    first = initial_tensors(train.SEED)
    name = "visual.transformer.resblocks.0.mlp.c_fc.weight"
    assert (checkpoint.tensors[name].float() != first[name].half().float()).float().mean() > 0.5
    assert "3 steps of 64 new images" in (tmp_path / "README.md").read_text()


def test_the_weights_are_small_and_whole():
    assert (WEIGHTS / "model.safetensors").stat().st_size <= 16_000_000
    checkpoint = load_checkpoint("demo")
    assert checkpoint.config.vision == CONFIG.vision
    assert checkpoint.config.text == CONFIG.text
