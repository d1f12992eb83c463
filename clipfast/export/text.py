"""The causal text transformer as ONNX nodes, padded token ids to text embeddings."""

from __future__ import annotations

import torch

from clipfast.config import TextConfig
from clipfast.export.graph import Graph
from clipfast.export.transformer import blocks
from clipfast.parameters import TextTransformer

# Added to the logits of tokens that come later. exp(-1e4) is zero in every dtype, while -inf would overflow the sums
# of some fused kernels and float16 ends at -65504.
HIDDEN = -1e4


def author_text(g: Graph, p: TextTransformer, config: TextConfig, ids: str) -> str:
    """Text embeddings before the projection, (batch, 1, D).

    Args:
        ids: (batch, context_length) int32, SOT ... EOT, anything after the first EOT.
    """
    length = config.context_length
    table = g.constant("token_embedding", p.token_embedding)
    x = g.node("Gather", [table, ids], "token_embedding/rows", axis=0)
    x = g.add(x, g.constant("positional_embedding", p.positions), "positions")
    x = g.reshape(x, (-1, config.width), "rows")

    eot = _first_eot(g, ids, config)
    causal = torch.full((length, length), HIDDEN).triu(1)
    mask = g.constant("causal_mask", causal)
    pooled_mask = None
    if not g.whole_attention:
        pooled_mask = g.node("Gather", [mask, eot], "eot/mask_row", axis=0)
        pooled_mask = g.reshape(pooled_mask, (0, 1, 1, length), "eot/mask")
    index = g.node("Unsqueeze", [eot, g.integers(1)], "eot/index")

    def eot_row(rows: str, name: str) -> str:
        by_text = g.reshape(rows, (-1, length, config.width), f"{name}/by_text")
        return g.node("GatherND", [by_text, index], name, batch_dims=1)

    x = blocks(g, x, p.blocks, config.heads, length, eot_row, mask=mask, pooled_mask=pooled_mask)
    return g.layer_norm(x, p.ln_final, config.width, "ln_final")


def _first_eot(g: Graph, ids: str, config: TextConfig) -> str:
    """(batch,) int64: the position of each text's first EOT.

    Earlier positions weigh more, so that the maximum is unique and no runtime's rule for ties matters.
    """
    eot = g.constant("eot_id", torch.tensor(config.eot_id), torch.int32)
    found = g.node("Equal", [ids, eot], "eot/equal")
    found = g.cast(found, torch.int32, "eot/found")
    weights = torch.arange(config.context_length, 0, -1)
    weighted = g.node(
        "Mul", [found, g.constant("eot/weights", weights, torch.int32)], "eot/weighted"
    )
    return g.node("ArgMax", [weighted], "eot/position", axis=1, keepdims=0)
