"""The demo model on the triton backend, through the public API: images, captions and scores as in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import clipfast
from clipfast import scoring
from clipfast.backends import select_ops
from clipfast.demo.samples import draw_samples
from clipfast.ops import Ops
from tests.tolerances import SCORES_FLOAT32, TRITON_TOWER_COSINE

PLACE = "cuda" if torch.cuda.is_available() else "cpu"
Models = tuple[clipfast.Model, clipfast.Model]


@pytest.fixture(scope="module")
def models() -> Models:
    """On the kernels in float32, and on the reference in float64."""
    kernels = clipfast.load("demo", device=PLACE, backend="triton", precision="fp32")
    return kernels, clipfast.load("demo", device="cpu", backend="reference", precision="fp64")


def assert_same_directions(kernels: torch.Tensor, exact: torch.Tensor) -> None:
    smallest = F.cosine_similarity(kernels.cpu().double(), exact.double()).min().item()
    print(f"smallest cosine to float64: 1 - {1 - smallest:.1e}")
    assert smallest >= TRITON_TOWER_COSINE["float32"]


def test_every_operation_but_the_convolution_is_a_kernel(models: Models) -> None:
    operations = models[0].describe()["operations"]
    assert {name for name in operations if operations[name] != "triton"} == {"convolution"}


@pytest.mark.parametrize("shared", [True, False], ids=["tree", "packed"])
def test_texts(models: Models, shared: bool) -> None:
    texts = ["a photo of a red circle.", "a photo of a red square.", "", "a " * 20]
    assert_same_directions(*(m.encode_texts(texts, share_prefixes=shared) for m in models))


def test_images_and_their_scores(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then probabilities, neighbours and the contrastive loss, on the kernels too."""
    samples = draw_samples()[::11]
    images = [sample.image for sample in samples]
    texts = [f"a photo of a {sample.scene.colour} {sample.scene.subject}." for sample in samples]
    rows, exact_rows = ((m.encode_images(images), m.encode_texts(texts)) for m in models)
    assert_same_directions(rows[0], exact_rows[0])
    scale = 3.0  # at the model's own the right caption takes all
    exact = clipfast.similarity(*exact_rows, scale), clipfast.top_k(*exact_rows, 2)[1]
    exact_loss = clipfast.contrastive_loss(*exact_rows, scale)

    def on_kernels(device: torch.device, dtype: torch.dtype, _isa: str) -> Ops:
        return select_ops("triton", device=device, dtype=dtype)

    monkeypatch.setattr(scoring, "_ops", on_kernels)
    rows = tuple(part.to(PLACE) for part in rows)
    p = clipfast.similarity(*rows, scale).cpu()
    assert torch.allclose(p.double(), exact[0].double(), atol=SCORES_FLOAT32)
    assert torch.equal(clipfast.top_k(*rows, 2)[1].cpu(), exact[1])
    loss = clipfast.contrastive_loss(*rows, scale)
    print(f"loss {loss:.6f}, in float64 {exact_loss:.6f}")
    assert loss == pytest.approx(exact_loss, abs=1e-5)
