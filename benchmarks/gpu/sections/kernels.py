"""How fast is each kernel at the towers' shapes, beside plain torch, and how near to what the device can do.

Every row holds its error to float64 beside torch's own, on the first rows of the output, measured in the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from benchmarks.gpu.cell import device_is_lost
from benchmarks.gpu.context import Context, Row, ceiling_rows, measure_ceilings
from clipfast.backends import reference
from clipfast.config import ARCHITECTURES, VisionTransformerConfig
from clipfast.kernels.attention import attention
from clipfast.kernels.attention_pool import attention_pool
from clipfast.kernels.hardware import hardware_of
from clipfast.kernels.layer_norm import layer_norm
from clipfast.kernels.linear import linear
from clipfast.kernels.linear_8bit import FP8, linear_8bit, unsupported_reason
from clipfast.kernels.patch_embed import patch_embed
from clipfast.kernels.similarity import log_sum_exp, similarity
from clipfast.kernels.top_k import top_k

TOWERS = ("ViT-B-32", "ViT-L-14", "ViT-L-14-336", "ViT-H-14")
# Rows of the output that are compared with float64.
CHECKED = 128
Call = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Cell:
    """ours, plain: calls of the kernel and of torch. exact: float64 of the first rows. flops, bytes: of one call."""

    name: str
    ours: Call
    plain: Call
    exact: Call
    flops: float
    bytes: float


def run(context: Context) -> Iterator[Row]:
    """A row for each cell that time allows, after the device's own ceilings."""
    ceilings: dict[str, float] = {}
    if not context.rehearsal:
        ceilings = measure_ceilings(context)
        yield from ceiling_rows(ceilings)
    for cell in _cells(context):
        if context.seconds_left() < 10:
            yield {"name": cell.name, "outcome": "not reached"}
            continue
        try:
            yield _measure(cell, context, ceilings)
        except RuntimeError as error:
            yield {"name": cell.name, "ok": False, "said": str(error)[-2000:]}
            if device_is_lost(error):
                raise


def _measure(cell: Cell, context: Context, ceilings: dict[str, float]) -> Row:
    exact = cell.exact()
    errors = [
        (call()[: len(exact)].double() - exact).abs().max().item()
        for call in (cell.ours, cell.plain)
    ]
    floor = torch.finfo(cell.ours().dtype).eps * exact.abs().max().item()
    right = errors[0] <= 2 * errors[1] + floor
    row: Row = {
        "name": cell.name,
        "ok": right,
        "error": f"{errors[0]:.1e}",
        "torch error": f"{errors[1]:.1e}",
    }
    ours, plain = context.milliseconds(cell.ours), context.milliseconds(cell.plain)
    if not ours:
        return row
    seconds = ours["ms"] / 1e3
    row |= ours | {"torch ms": plain["ms"], "times torch": round(plain["ms"] / ours["ms"], 2)}
    row["TFLOPS"], row["GBps"] = (
        round(cell.flops / seconds / 1e12),
        round(cell.bytes / seconds / 1e9),
    )
    used = max(cell.flops / ceilings["flops"], cell.bytes / ceilings["bytes"]) / seconds
    row["percent of ceiling"] = round(100 * used)
    return row


def _cells(context: Context) -> Iterator[Cell]:
    for name in TOWERS[:1] if context.rehearsal else TOWERS:
        vision = ARCHITECTURES[name].vision
        assert isinstance(vision, VisionTransformerConfig)
        images = 1 if context.rehearsal else 64
        yield from _layers(f"{name} B {images}", images * vision.tokens, vision, context)
        yield from _attentions(f"{name} B {images}", images, vision, context)
    yield from _fp8(context)
    yield from _gallery(context)


def _fp8(context: Context) -> Iterator[Cell]:
    """The second product of a block on fp8, scales of 128 columns, beside torch's bf16 of the same numbers."""
    if not context.rehearsal and unsupported_reason(FP8, hardware_of(context.device).architecture):
        return
    rows, columns, depth = (20, 64, 256) if context.rehearsal else (16_448, 1024, 4096)
    x, weight = (_tensor(context, n, depth).to(FP8) for n in (rows, columns))
    scales = torch.rand(rows, depth // 128, device=context.device)
    weight_scale = torch.rand(columns, device=context.device) / depth**0.5
    wide_x = x.float() * scales.repeat_interleave(128, dim=1)
    wide_weight = weight.float() * weight_scale[:, None]
    plain_x, plain_weight = wide_x.to(context.dtype), wide_weight.to(context.dtype)
    yield Cell(
        f"linear_8bit {rows}x{columns}x{depth}",
        lambda: linear_8bit(x, scales, weight, weight_scale, None, dtype=context.dtype)[0],
        lambda: plain_x @ plain_weight.T,
        lambda: wide_x[:CHECKED].double() @ wide_weight.double().T,
        2 * rows * columns * depth,
        x.nbytes + weight.nbytes + 2 * rows * columns,
    )


def _tensor(context: Context, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    return torch.randn(shape, device=context.device).to(dtype or context.dtype)


def _linear(
    name: str, rows: int, columns: int, depth: int, context: Context, *,
    activation: str | None = None, added: bool = False,
) -> Cell:  # fmt: skip
    x, weight = _tensor(context, rows, depth), _tensor(context, columns, depth) * depth**-0.5
    bias = _tensor(context, columns)
    residual = _tensor(context, rows, columns, dtype=torch.float32) if added else None
    first = None if residual is None else residual[:CHECKED].double()
    options = {"activation": activation, "residual": residual}
    moved = x.nbytes + weight.nbytes + rows * columns * (8 if added else 2)
    return Cell(
        f"linear {name} {rows}x{columns}x{depth}",
        lambda: linear(x, weight, bias, **options)[0],
        lambda: reference.linear(x, weight, bias, **options),
        lambda: reference.linear(
            x[:CHECKED].double(),
            weight.double(),
            bias.double(),
            activation=activation,
            residual=first,
        ),
        2 * rows * columns * depth,
        moved,
    )


def _layers(
    name: str, rows: int, vision: VisionTransformerConfig, context: Context
) -> Iterator[Cell]:
    width, mlp = vision.width, vision.mlp_width
    if context.rehearsal:
        rows, width, mlp = 20, 64, 96
    yield _linear(f"{name} qkv", rows, 3 * width, width, context)
    yield _linear(f"{name} out_proj", rows, width, width, context, added=True)
    yield _linear(f"{name} c_fc silu", rows, mlp, width, context, activation="silu")
    yield _linear(f"{name} c_proj", rows, width, mlp, context, added=True)
    x = _tensor(context, rows, width, dtype=torch.float32)
    yield Cell(
        f"layer_norm {name} {rows}x{width}",
        lambda: layer_norm(x, None, None, 1e-5, dtype=context.dtype)[0],
        lambda: F.layer_norm(x, [width]).to(context.dtype),
        lambda: F.layer_norm(x[:CHECKED].double(), [width]),
        0.0,
        6 * rows * width,
    )


def _attentions(
    name: str, images: int, vision: VisionTransformerConfig, context: Context
) -> Iterator[Cell]:
    heads, length, width = vision.heads, vision.tokens, vision.width
    size, patch = vision.image_size, vision.patch_size
    if context.rehearsal:
        heads, length, width, size, patch = 2, 19, 128, 28, 14
    qkv = _tensor(context, images * length, 3 * width)
    yield Cell(
        f"attention {name} L {length}",
        lambda: attention(qkv, heads, length=length),
        lambda: reference.attention(qkv, heads, length=length),
        lambda: reference.attention(qkv[:length].double(), heads, length=length),
        4 * images * length * length * width,
        8 * images * length * width,
    )
    query, kv = _tensor(context, images, width), qkv[:, width:]
    yield Cell(
        f"attention_pool {name} L {length}",
        lambda: attention_pool(query, kv, heads, length=length),
        lambda: reference.attention_pool(query, kv, heads, length=length),
        lambda: reference.attention_pool(query.double(), kv.double(), heads, length=length),
        4 * images * length * width,
        4 * images * length * width,
    )
    grid = size // patch
    pixels = torch.randint(
        0, 256, (images, 3, size, size), dtype=torch.uint8, device=context.device
    )
    weight = _tensor(context, width, 3 * patch * patch) / 2000
    vectors = _tensor(context, width), _tensor(context, width), _tensor(context, grid * grid, width)
    yield Cell(
        f"patch_embed {name} P {patch}",
        lambda: patch_embed(pixels, weight, *vectors),
        lambda: reference.patch_embed(pixels, weight, *vectors),
        lambda: reference.patch_embed(pixels[:1], weight.double(), *(v.double() for v in vectors)),
        2 * images * grid * grid * width * 3 * patch * patch,
        pixels.nbytes + weight.nbytes + 2 * images * grid * grid * width,
    )


def _gallery(context: Context) -> Iterator[Cell]:
    queries, keys, width = (4, 100, 32) if context.rehearsal else (64, 1_000_000, 512)
    gallery = _tensor(context, keys, width)
    asked = _tensor(context, queries, width)
    labels = gallery[:1000]
    pair = f"{queries} x {keys} x {width}"
    yield Cell(
        f"top_k 10 {pair}",
        lambda: top_k(asked, gallery, 10)[0],
        lambda: reference.top_k(asked, gallery, 10)[0],
        lambda: reference.top_k(asked[:2].double(), gallery.double(), 10)[0],
        2 * queries * keys * width,
        gallery.nbytes,
    )
    yield Cell(
        f"log_sum_exp {pair}",
        lambda: log_sum_exp(asked, gallery, 100.0)[0],
        lambda: reference.log_sum_exp(asked, gallery, 100.0)[0],
        lambda: reference.log_sum_exp(asked[:2].double(), gallery.double(), 100.0)[0],
        2 * queries * keys * width,
        gallery.nbytes,
    )
    yield Cell(
        f"similarity {queries} x {len(labels)} x {width}",
        lambda: similarity(asked, labels, 100.0),
        lambda: reference.similarity(asked, labels, 100.0),
        lambda: reference.similarity(asked[:2].double(), labels.double(), 100.0),
        2 * queries * len(labels) * width,
        labels.nbytes + 4 * queries * len(labels),
    )
