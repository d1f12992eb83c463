"""patch_embed against float64: patches of 14, 16 and 32 pixels, bytes and floats, class row and positions."""

from __future__ import annotations

import pytest
import torch

from clipfast.backends.reference import patch_embed as reference
from clipfast.errors import ConfigurationError
from clipfast.kernels.patch_embed import patch_embed
from tests.kernels.parity import DTYPES, Operands, assert_parity, strided


def layer(
    operands: Operands, patch: int, grid: int, width: int, dtype: torch.dtype
) -> tuple[torch.Tensor, ...]:
    weight = operands(width, 3 * patch * patch, dtype=dtype, std=1 / (150 * patch))
    rest = (operands(width, dtype=dtype), operands(width, dtype=dtype))
    return weight, *rest, operands(grid * grid, width, dtype=dtype)


def check(
    pixels: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *rest: torch.Tensor
) -> None:
    tokens = patch_embed(pixels, weight, bias, *rest)
    wide = [None if part is None else part.double() for part in (weight, bias, *rest)]
    exact = reference(pixels.double(), *wide)
    assert_parity(tokens, exact, reference(pixels.to(weight.dtype), weight, bias, *rest))


@pytest.mark.parametrize(("patch", "size"), [(14, 42), (16, 48), (32, 64), (8, 8), (14, 50)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bytes(operands: Operands, patch: int, size: int, dtype: torch.dtype) -> None:
    check(operands.bytes(3, 3, size, size), *layer(operands, patch, size // patch, 72, dtype))


@pytest.mark.parametrize("patch", [14, 16])
def test_floats_without_bias(operands: Operands, patch: int) -> None:
    weight, _, *rest = layer(operands, patch, 3, 136, torch.float16)
    check(operands(2, 3, 3 * patch, 3 * patch, dtype=torch.float16), weight, None, *rest)


@pytest.mark.slow
@pytest.mark.parametrize(("patch", "size"), [(14, 224), (14, 336), (16, 224), (32, 224)])
def test_real_sizes(operands: Operands, patch: int, size: int) -> None:
    check(
        operands.bytes(1, 3, size, size),
        *layer(operands, patch, size // patch, 768, torch.bfloat16),
    )


def test_pixels_inside_larger_images_and_strided_weights(operands: Operands) -> None:
    weight, bias, class_row, positions = layer(operands, 16, 2, 72, torch.float16)
    pixels = operands.bytes(2, 4, 40, 50)[:, 1:, 3:35, 5:37]
    check(pixels, strided(weight), bias, class_row, strided(positions))


def test_writes_its_output_and_nothing_else(operands: Operands, device: torch.device) -> None:
    parts = layer(operands, 16, 2, 70, torch.float16)
    pixels = operands.bytes(3, 3, 32, 32)
    buffer = torch.full((5, 5, 70), torch.nan, dtype=torch.float16, device=device)
    tokens = patch_embed(pixels, *parts, out=buffer[1:4])
    assert buffer[0].isnan().all()
    assert buffer[4].isnan().all()
    assert torch.equal(tokens, patch_embed(pixels, *parts))
    assert torch.equal(patch_embed(pixels[1:2], *parts)[0], tokens[1])


def test_no_images(operands: Operands) -> None:
    parts = layer(operands, 16, 2, 72, torch.float16)
    assert patch_embed(operands.bytes(0, 3, 32, 32), *parts).shape == (0, 5, 72)


def test_refuses_in_words(operands: Operands) -> None:
    parts = layer(operands, 16, 2, 72, torch.float16)
    with pytest.raises(ConfigurationError, match=r"expected \(B, 3, R, R\) and \(D, 3 P P\)"):
        patch_embed(operands.bytes(1, 3, 32, 48), *parts)
    with pytest.raises(ConfigurationError, match="expected the last to be 1"):
        patch_embed(operands.bytes(1, 3, 32, 32).transpose(2, 3), *parts)
    with pytest.raises(
        ConfigurationError, match=r"positions has shape \(4, 72\); expected \(9, 72\)"
    ):
        patch_embed(operands.bytes(1, 3, 48, 48), *parts)
    with pytest.raises(ConfigurationError, match=r"out has shape \(1, 5, 71\)"):
        patch_embed(operands.bytes(1, 3, 32, 32), *parts, out=operands(1, 5, 71))
