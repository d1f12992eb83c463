"""An index made with the reference implementation stays usable: bf16 queries find the neighbours that fp32 ones do."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import clipfast
from clipfast.checkpoint import load_checkpoint
from clipfast.demo.architecture import WEIGHTS
from clipfast.demo.batches import SceneBatches
from clipfast.demo.digits import load_handwriting
from tests.parity.references import normalised, open_clip_forward
from tests.tolerances import RECALL_BF16

ROWS, NEIGHBOURS = 10_000, 10


def neighbours(queries: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """(N, 10) the nearest rows of the index to each query, in float64, the query's own row left out."""
    cosines = queries.double() @ index.double().T
    cosines.fill_diagonal_(-1.0)
    return cosines.topk(NEIGHBOURS).indices


@pytest.mark.slow
def test_bf16_finds_the_neighbours_of_the_reference() -> None:
    _, held_out = load_handwriting()
    draw = SceneBatches(held_out, lambda _: 1.0, stream=2_000_003, size=500, image_size=112)
    pixels = torch.cat([draw(i).pixels for i in range(ROWS // 500)])
    config = load_checkpoint(WEIGHTS).config
    forward = open_clip_forward(load_file(WEIGHTS / "model.safetensors"), config)
    no_text = torch.zeros(1, 77, dtype=torch.int64)
    index = torch.cat([forward(normalised(part, config), no_text)[0] for part in pixels.split(500)])
    model = clipfast.load("demo", precision="bf16")
    expected = neighbours(index, index)
    for name, queries, rows in (
        ("bf16 queries, fp32 index", model.encode_images(pixels), index),
        ("bf16 queries, bf16 index", model.encode_images(pixels), model.encode_images(pixels)),
    ):
        found = neighbours(queries, rows)
        overlap = (found[:, :, None] == expected[:, None, :]).any(dim=2).double().mean().item()
        cosine = torch.nn.functional.cosine_similarity(queries, index).min().item()
        print(f"{name}: recall@10 overlap {overlap:.4f}, smallest cosine {cosine:.6f}")
        assert overlap >= RECALL_BF16
