"""The public calls on real inputs: kinds of images, order, failures, precision, what is refused."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import clipfast
from clipfast.checkpoint import load_checkpoint
from tests.api.images import photo, png
from tests.model.textbook import Textbook
from tests.tolerances import BF16_COSINE, TOWER_FLOAT32


@pytest.fixture(scope="module")
def textbook(tiny_directory: Path) -> Textbook:
    checkpoint = load_checkpoint(tiny_directory)
    return Textbook(checkpoint.tensors, checkpoint.config)


def unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=-1)


def test_every_kind_of_image_is_the_same_image(
    model: clipfast.Model, textbook: Textbook, tmp_path: Path
) -> None:
    path = tmp_path / "photo.png"
    photo(1).save(path)
    kinds = [path, str(path), png(1), path.open("rb"), photo(1), np.asarray(photo(1))]
    rows = model.encode_images(kinds)
    truth = unit(textbook.image(torch.from_numpy(model.preprocess(photo(1)))[None]))
    assert rows.dtype == torch.float32
    assert (rows.double() - truth).abs().max() < TOWER_FLOAT32
    assert (rows - rows[0]).abs().max() < TOWER_FLOAT32


def test_batches_as_arrays(model: clipfast.Model) -> None:
    pixels = np.stack([model.preprocess(photo(seed)) for seed in range(5)])
    rows = model.encode_images([photo(seed) for seed in range(5)])
    for batch in (pixels, pixels.transpose(0, 2, 3, 1), torch.from_numpy(pixels)):
        assert torch.equal(model.encode_images(batch), rows)
    mean, std = (
        np.float32(v).reshape(3, 1, 1)
        for v in (model.config.preprocess.mean, model.config.preprocess.std)
    )
    normalised = (pixels.astype(np.float32) / 255 - mean) / std
    assert (model.encode_images(normalised) - rows).abs().max() < TOWER_FLOAT32


def test_order_is_kept_over_batches_and_generators(model: clipfast.Model) -> None:
    images = [photo(seed, 60 + seed) for seed in range(23)]
    together = model.encode_images(images)
    assert (model.encode_images(images, batch_size=4) - together).abs().max() < TOWER_FLOAT32
    assert (model.encode_images(iter(images), batch_size=7) - together).abs().max() < TOWER_FLOAT32
    assert model.encode_images([]).shape == (0, 32)


def test_unnormalised_rows_are_the_towers_own(model: clipfast.Model, textbook: Textbook) -> None:
    pixels = torch.from_numpy(model.preprocess(photo(3)))[None]
    truth = textbook.image(pixels)
    got = model.encode_images(pixels, normalize=False)
    assert ((got - truth).abs().max() / truth.abs().max()) < TOWER_FLOAT32


def test_a_bad_image_raises_with_its_position(model: clipfast.Model) -> None:
    with pytest.raises(clipfast.InputError) as caught:
        model.encode_images([png(0), b"no image", png(1)])
    assert (caught.value.index, caught.value.code) == (1, "unidentified_image")


def test_null_rows_leave_their_neighbours_untouched(model: clipfast.Model) -> None:
    good = model.encode_images([png(0), png(1), png(2)], batch_size=2)
    rows = model.encode_images(
        [png(0), b"no image", png(1), b"", png(2)], errors="null", batch_size=2
    )
    assert [error.index for error in model.last_errors] == [1, 3]
    assert rows[[1, 3]].isnan().all()
    assert (rows[[0, 2, 4]] - good).abs().max() < TOWER_FLOAT32
    all_bad = model.encode_images([b"", b"x"], errors="null")
    assert all_bad.shape == (2, 32)
    assert all_bad.isnan().all()


def test_last_errors_belong_to_the_thread(model: clipfast.Model) -> None:
    model.encode_images([b"x"], errors="null")
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(len(model.last_errors)))
    thread.start()
    thread.join()
    assert (len(model.last_errors), seen) == (1, [0])


def test_results_are_ordinary_tensors(model: clipfast.Model) -> None:
    rows = model.encode_texts(["a cat"]).requires_grad_()
    rows.square().sum().backward()
    assert rows.grad is not None


def test_bf16_stays_close(tiny_directory: Path, model: clipfast.Model) -> None:
    half = clipfast.load(tiny_directory, precision="bf16")
    images = [photo(seed) for seed in range(4)]
    cosine = (half.encode_images(images) * model.encode_images(images)).sum(dim=1).min()
    assert float(cosine) > BF16_COSINE
    texts = ["a cat", "two dogs on a beach"]
    cosine = (half.encode_texts(texts) * model.encode_texts(texts)).sum(dim=1).min()
    assert float(cosine) > BF16_COSINE


def test_batch_invariant_rows_have_the_same_bits(tiny_directory: Path) -> None:
    model = clipfast.load(tiny_directory, precision="fp32", batch_invariant=True)
    images = [photo(seed) for seed in range(5)]
    together = model.encode_images(images)
    for i, image in enumerate(images):
        assert torch.equal(model.encode_images([image])[0], together[i])
    texts = ["a cat", "a cat on a mat", "a dog"]
    together = model.encode_texts(texts)
    for i, text in enumerate(texts):
        assert torch.equal(model.encode_texts([text])[0], together[i])


def test_truncation(model: clipfast.Model) -> None:
    long = "word " * 100
    with pytest.raises(clipfast.InputError, match="102 tokens") as caught:
        model.encode_texts(["short", long])
    assert (caught.value.index, caught.value.code) == (1, "text_too_long")
    cut = model.encode_texts([long], truncate=True)
    assert (cut - model.encode_texts(["word " * 75])).abs().max() < TOWER_FLOAT32


def test_tokens_in_place_of_texts(model: clipfast.Model) -> None:
    texts = ["a cat", "a dog on a mat"]
    got = model.encode_tokens(model.tokenize(texts))
    assert (got - model.encode_texts(texts)).abs().max() < TOWER_FLOAT32
    ids = model.tokenize(texts)
    ids[1] = 5
    with pytest.raises(clipfast.InputError, match="no end-of-text") as caught:
        model.encode_tokens(ids)
    assert caught.value.index == 1


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"precision": "int4"}, clipfast.ConfigurationError, "precision='int4'"),
        ({"precision": "fp8"}, clipfast.UnsupportedError, "no kernels on cpu"),
        ({"backend": "magic"}, clipfast.ConfigurationError, "magic"),
        ({"backend": "cuda"}, clipfast.UnsupportedError, "backend 'cuda'"),
        ({"device": "cuda"}, clipfast.UnsupportedError, "no CUDA device"),
        ({"device": "tpu9"}, clipfast.ConfigurationError, "tpu9"),
        ({"threads": 0}, clipfast.ConfigurationError, "threads=0"),
        ({"resize": "gpu"}, clipfast.ConfigurationError, "resize='gpu'"),
        (
            {"resize": "device", "device": "cpu"},
            clipfast.UnsupportedError,
            "it is for weights loaded on a GPU",
        ),
    ],
)
def test_refusals_say_why(
    tiny_directory: Path, arguments: dict[str, object], error: type[Exception], said: str
) -> None:
    if arguments.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(error, match=said):
        clipfast.load(tiny_directory, **arguments)  # type: ignore[arg-type]


def test_wrong_call_arguments_are_typed(model: clipfast.Model) -> None:
    with pytest.raises(clipfast.ConfigurationError, match="errors='ignore'"):
        model.encode_images([png(0)], errors="ignore")  # type: ignore[arg-type]
    with pytest.raises(clipfast.ConfigurationError, match="batch_size=0"):
        model.encode_images([png(0)], batch_size=0)
    with pytest.raises(clipfast.InputError, match=r"pass \[text\]"):
        model.encode_texts("a cat")


def test_default_model(
    tiny_directory: Path, monkeypatch: pytest.MonkeyPatch, model: clipfast.Model
) -> None:
    clipfast.set_default_model(None)
    monkeypatch.delenv("CLIPFAST_MODEL", raising=False)
    with pytest.raises(clipfast.ConfigurationError, match="set_default_model"):
        clipfast.encode_texts(["a cat"])
    clipfast.set_default_model(model)
    assert torch.equal(clipfast.encode_texts(["a cat"]), model.encode_texts(["a cat"]))
    assert torch.equal(clipfast.encode_images([png(0)]), model.encode_images([png(0)]))
    clipfast.set_default_model(None)
    monkeypatch.setenv("CLIPFAST_MODEL", str(tiny_directory))
    assert clipfast.encode_texts(["a cat"]).shape == (1, 32)
    clipfast.set_default_model(None)


def test_describe_and_warmup(model: clipfast.Model) -> None:
    described = model.warmup().describe()
    assert described["precision"] == "fp32"
    assert set(described["operations"]) >= {"attention", "linear", "similarity"}
    assert described["backend"] == model.backend
    assert "fp32" in repr(model)
