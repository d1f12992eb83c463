"""A whole tower of each kind on the CUDA kernels in bf16, beside float64: they take what the wiring hands them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from clipfast.backends import select_ops
from clipfast.backends.reference import REFERENCE
from clipfast.checkpoint.folds import fold
from clipfast.model import TextRows, encode_text, encode_vision
from clipfast.ops import Ops
from clipfast.parameters import map_tensors
from tests.cuda.machine import machine, missing_device
from tests.random_weights import random_weights, tiny
from tests.tolerances import CUDA_TOWER_COSINE

here = machine()
pytestmark = pytest.mark.slow


def operations() -> Ops:
    """The backend where there is a GPU; else the reference with what csrc/cuda serves on the checking machine."""
    if missing_device() is None:
        return select_ops("cuda", device=here.device, dtype=torch.bfloat16)
    return replace(
        REFERENCE,
        patch_embed=here.patch_embed,
        attention=here.attention,
        attention_pool=here.attention_pool,
    )


def check(run) -> None:
    config = tiny()
    weights = random_weights(config, seed=3)
    narrow = map_tensors(fold(weights, config, torch.bfloat16), lambda x: x.to(here.device))
    exact = run(fold(weights, config, torch.float64), config, REFERENCE, torch.device("cpu"))
    ours = run(narrow, config, operations(), here.device).cpu().double()
    plain = run(narrow, config, REFERENCE, here.device).cpu().double()
    cosines = [F.cosine_similarity(rows, exact).min().item() for rows in (ours, plain)]
    print(f"1 - cosine: {1 - cosines[0]:.1e}, plain torch {1 - cosines[1]:.1e}")
    assert cosines[0] >= CUDA_TOWER_COSINE


def test_small_image_tower():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 3, 64, 64), generator=generator, dtype=torch.uint8)

    def run(parameters, config, ops, device) -> torch.Tensor:
        return encode_vision(parameters.vision, config.vision, ops, pixels.to(device))

    check(run)


def test_small_text_tower():
    lengths = [3, 17, 9]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 40_000, (sum(lengths),), generator=generator).int()
    positions = torch.cat([torch.arange(length) for length in lengths]).int()
    ends = torch.tensor([0, *lengths]).cumsum(0).int()

    def run(parameters, config, ops, device) -> torch.Tensor:
        rows = TextRows(*(x.to(device) for x in (ids, positions, ends)))
        return encode_text(parameters.text, config.text, ops, rows)

    check(run)
