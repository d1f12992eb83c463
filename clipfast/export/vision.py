"""The vision transformer as ONNX nodes, pixels to image embeddings."""

from __future__ import annotations

import torch

from clipfast.config import PreprocessConfig, VisionTransformerConfig
from clipfast.export.graph import Graph
from clipfast.export.transformer import blocks
from clipfast.parameters import Convolution, VisionTransformer

# Subtracted from uint8 pixels before the patch embedding: exact in every dtype (integers up to 128), and what is left
# is centred, so that half-precision products do not have to cancel a large bias.
PIXEL_CENTRE = 128


def author_vision(
    g: Graph,
    p: VisionTransformer,
    config: VisionTransformerConfig,
    preprocess: PreprocessConfig,
    pixels: str,
    *,
    normalised: bool,
) -> str:
    """Image embeddings before the projection, (batch, 1, D).

    Args:
        pixels: (batch, 3, R, R) uint8, or float32 and `normalised` already.
    """
    x = pixels
    if not normalised or g.dtype != torch.float32:
        x = g.cast(pixels, g.dtype, "pixels")
    if not normalised:
        centre = g.constant("pixel_centre", torch.tensor(float(PIXEL_CENTRE)))
        x = g.node("Sub", [x, centre], "pixels/centred")
    patch = _patch_convolution(p, config.patch_size, None if normalised else preprocess, g.dtype)
    x = g.convolution(x, patch, "patch_embed", stride=config.patch_size)
    x = g.reshape(x, (0, config.width, config.grid**2), "patch_embed/flat")
    x = g.transpose(x, (0, 2, 1), "patch_embed/tokens")
    # A row of zeros in front, to which the class embedding is added with the positions.
    padding = g.integers(0, 1, 0, 0, 0, 0)
    x = g.node("Pad", [x, padding], "patch_embed/with_class")
    positions = torch.cat([p.patch_embed.class_row[None], p.patch_embed.positions])
    x = g.add(x, g.constant("positional_embedding", positions), "positions")
    x = g.reshape(x, (-1, config.width), "rows")
    x = g.layer_norm(x, p.ln_pre, config.width, "ln_pre")
    first = g.constant("class_index", torch.tensor(0), torch.int64)

    def class_row(rows: str, name: str) -> str:
        by_image = g.reshape(rows, (-1, config.tokens, config.width), f"{name}/by_image")
        return g.node("Gather", [by_image, first], name, axis=1)

    x = blocks(g, x, p.blocks, config.heads, config.tokens, class_row)
    return g.layer_norm(x, p.ln_post, config.width, "ln_post")


def _patch_convolution(
    p: VisionTransformer, patch_size: int, preprocess: PreprocessConfig | None, dtype: torch.dtype
) -> Convolution:
    """The patch embedding for normalised pixels, or, with the normalisation folded in, for uint8 ones less the centre.

    The bias is computed from the rounded weight, so that a pixel equal to the mean still maps to exactly zero.
    """
    weight = p.patch_embed.float_weight.reshape(-1, 3, patch_size, patch_size)
    if preprocess is None:
        return Convolution(weight, torch.zeros(len(weight)))
    mean, std = (
        torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1)
        for values in (preprocess.mean, preprocess.std)
    )
    folded = (weight.double() / (255 * std)).to(dtype)
    bias = -(folded.double() * (255 * mean - PIXEL_CENTRE)).sum(dim=(1, 2, 3))
    return Convolution(folded, bias)
