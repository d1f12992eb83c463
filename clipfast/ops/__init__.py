"""The contract between the model and every backend: one documented callable per fused operation.

Symbols: B sequences of the batch, T packed rows (all sequences' tokens one after another, no padding), D width,
H heads, Dh = D / H, L tokens of a sequence, R image size, P patch size, E embedding width.

Rules that hold for every operation:
- Arguments are on one device; matrices have unit stride in the last axis; any other stride is allowed.
- Statistics, softmax and logits are computed in at least float32, whatever the storage dtype.
- Outputs are new tensors. Same input, same bits, twice. Empty batches (B = 0) give empty outputs.
- The softmax scale is folded into the query weights (`parameters.Block`), so attention does not scale.
- The residual stream may be wider than the weights (float32 beside bfloat16): `linear` returns the residual's
  dtype when one is given, and `layer_norm` returns the dtype that it is asked for.

The last block of a tower computes one query per sequence: `attention_pool` over that block's own key and value rows. It
is an operation of its own (not an option of `attention`) because the unused query rows are then never computed.
"""

from clipfast.ops.backend import (
    OPERATIONS,
    Ops,
    Prepare,
    PrepareConvolution,
    Repeat,
    RepeatedFunction,
    UnsupportedReason,
    as_it_is,
    convolution_as_it_is,
)
from clipfast.ops.encoding import (
    AddToStream,
    Attention,
    AttentionPool,
    Convolution,
    LayerNorm,
    Linear,
    LinearActivation,
    PatchEmbed,
    PrefixTree,
    Product,
    ReadStream,
    ResizeCrop,
    Stream,
    StreamProducts,
    Tensor,
    TreeAttention,
)
from clipfast.ops.gallery import LogSumExp, Similarity, TopK

__all__ = [
    "OPERATIONS",
    "AddToStream",
    "Attention",
    "AttentionPool",
    "Convolution",
    "LayerNorm",
    "Linear",
    "LinearActivation",
    "LogSumExp",
    "Ops",
    "PatchEmbed",
    "PrefixTree",
    "Prepare",
    "PrepareConvolution",
    "Product",
    "ReadStream",
    "Repeat",
    "RepeatedFunction",
    "ResizeCrop",
    "Similarity",
    "Stream",
    "StreamProducts",
    "Tensor",
    "TopK",
    "TreeAttention",
    "UnsupportedReason",
    "as_it_is",
    "convolution_as_it_is",
]
