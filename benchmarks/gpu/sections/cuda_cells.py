"""What `make gpu` times of the CUDA kernels: each operation at the published shapes, its peers and its target."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.context import Context
from clipfast.backends import reference
from clipfast.kernels.attention import attention as triton_attention
from clipfast.kernels.patch_embed import patch_embed as triton_patch_embed
from clipfast.kernels.similarity import similarity as triton_similarity
from clipfast.kernels.top_k import top_k as triton_top_k
from tests.cuda.machine import Machine

Call = Callable[[], torch.Tensor]
BACKENDS = {
    "SDPA flash": SDPBackend.FLASH_ATTENTION,
    "SDPA efficient": SDPBackend.EFFICIENT_ATTENTION,
    "SDPA cudnn": SDPBackend.CUDNN_ATTENTION,
    "SDPA math": SDPBackend.MATH,
}
# length, heads, head dim, and times the best SDPA backend: B/32, B/16, L/14, L/14 at 336, H/14, g/14, bigG/14.
ATTENTIONS = (
    (50, 12, 64, 1.5), (197, 12, 64, 1.5), (257, 16, 64, 1.5), (577, 16, 64, None),
    (257, 16, 80, None), (257, 16, 88, None), (257, 16, 104, None),
)  # fmt: skip
# size, patch, width: B/32, B/16, L/14.
EMBEDDINGS = ((224, 32, 768), (224, 16, 768), (224, 14, 1024))
CHECKED = 2  # images, or queries, that are compared with float64
MEAN, DEVIATION = (0.4814, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)


@dataclass(frozen=True)
class Cell:
    """ours, plain: calls of the kernel and of plain torch. exact: float64 of the first rows. peers: what else is timed.
    target: times the best peer whose name begins with `against`, or `items` a second. flops, bytes: of one call."""

    name: str
    ours: Call
    plain: Call
    exact: Call
    flops: float
    bytes: float
    peers: dict[str, Call] = field(default_factory=dict)
    against: str = ""
    target: float | None = None
    items: int = 0


def cells(context: Context, kernels: Machine) -> Iterator[Cell]:
    """Every cell; tensors are made when a cell is reached and freed after it."""
    attentions = ((19, 2, 64, 1.5),) if context.rehearsal else ATTENTIONS
    for length, heads, head_dim, target in attentions:
        yield _attention(context, kernels, length, heads, head_dim, target)
    yield _texts(context, kernels)
    for size, patch, width in ((28, 14, 24),) if context.rehearsal else EMBEDDINGS:
        yield _patch_embed(context, kernels, size, patch, width)
    for queries in (3,) if context.rehearsal else (1, 64, 256):
        for int8 in (False, True):
            yield _top_k(context, kernels, queries, int8=int8)
    yield _similarity(context, kernels)
    yield _resize(context, kernels)


def _attention(
    context: Context, kernels: Machine, length: int, heads: int, head_dim: int, target: float | None
) -> Cell:
    images, width = 1 if context.rehearsal else 64, heads * head_dim
    qkv = torch.randn(images * length, 3 * width, device=context.device).to(context.dtype)
    qkv[:, :width] *= head_dim**-0.5
    query, key, value = qkv.view(images, length, 3, heads, head_dim).permute(2, 0, 3, 1, 4)

    def by(backend: SDPBackend) -> Call:
        def attend() -> torch.Tensor:
            with sdpa_kernel([backend]):
                return F.scaled_dot_product_attention(query, key, value, scale=1.0)

        return attend

    peers: dict[str, Call] = {name: by(backend) for name, backend in BACKENDS.items()}
    peers["triton"] = lambda: triton_attention(qkv, heads, length=length)
    first = qkv[: min(images, CHECKED) * length].double()
    return Cell(
        f"attention B {images} L {length} H {heads} Dh {head_dim}",
        lambda: kernels.attention(qkv, heads, length=length),
        lambda: reference.attention(qkv, heads, length=length),
        lambda: reference.attention(first, heads, length=length),
        4 * images * length * length * width,
        8 * images * length * width,
        peers,
        "SDPA",
        target,
    )


def _texts(context: Context, kernels: Machine) -> Cell:
    """Packed causal prompts of ten tokens."""
    texts, length, heads = (2, 10, 1) if context.rehearsal else (1024, 10, 12)
    qkv = torch.randn(texts * length, 3 * 64 * heads, device=context.device).to(context.dtype)
    ends = torch.arange(0, len(qkv) + 1, length, device=context.device, dtype=torch.int32)
    first, first_ends = qkv[: CHECKED * length].double(), ends[: CHECKED + 1]
    return Cell(
        f"attention packed causal, {texts} texts of {length} tokens, H {heads}",
        lambda: kernels.attention(qkv, heads, cu_seqlens=ends, causal=True),
        lambda: reference.attention(qkv, heads, length=length, causal=True),
        lambda: reference.attention(first, heads, cu_seqlens=first_ends, causal=True),
        4 * len(qkv) * length * 64 * heads,
        8 * len(qkv) * 64 * heads,
        {"triton": lambda: triton_attention(qkv, heads, cu_seqlens=ends, causal=True)},
    )


def _patch_embed(context: Context, kernels: Machine, size: int, patch: int, width: int) -> Cell:
    images, grid = 2 if context.rehearsal else 256, size // patch
    depth, device = 3 * patch * patch, context.device
    pixels = torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8, device=device)
    kernel = torch.randn(width, 3, patch, patch, device=device) / depth**0.5
    row, places = torch.randn(width, device=device), torch.randn(grid * grid, width, device=device)
    mean = torch.tensor(MEAN, device=device).view(3, 1, 1)
    deviation = torch.tensor(DEVIATION, device=device).view(3, 1, 1)
    weight = (kernel / (255 * deviation)).reshape(width, -1).to(context.dtype)
    bias = -(kernel * mean / deviation).sum((1, 2, 3))
    typed = [x.to(context.dtype) for x in (mean, deviation, kernel, row, places)]

    def normalise_and_conv() -> torch.Tensor:
        middle, spread, filters, first, positions = typed
        x = (pixels.to(context.dtype) / 255 - middle) / spread
        tokens = F.conv2d(x, filters, stride=patch).flatten(2).transpose(1, 2) + positions
        return torch.cat([first.expand(images, 1, -1), tokens], dim=1)

    folded = [x.to(context.dtype) for x in (bias, row, places)]
    return Cell(
        f"patch_embed B {images} R {size} P {patch} D {width}",
        lambda: kernels.patch_embed(pixels, weight, bias, row, places),
        lambda: reference.patch_embed(pixels, weight, *folded),
        lambda: reference.patch_embed(
            pixels[:CHECKED], weight.double(), bias.double(), row.double(), places.double()
        ),
        2 * images * grid * grid * width * depth,
        pixels.nbytes + weight.nbytes + 2 * images * grid * grid * width,
        {
            "normalise + conv": normalise_and_conv,
            "triton": lambda: triton_patch_embed(pixels, weight, *folded),
        },
        "normalise",
        2.0,
    )


def _unit_rows(context: Context, rows: int, width: int) -> torch.Tensor:
    """Normalised rows, made in parts: ten million in float32 would take twice their own memory."""
    out = torch.empty(rows, width, dtype=context.dtype, device=context.device)
    for part in out.split(1 << 20):
        part.copy_(F.normalize(torch.randn(part.shape, device=context.device), dim=1))
    return out


def _best(queries: torch.Tensor, gallery: torch.Tensor, k: int, dtype: torch.dtype) -> torch.Tensor:
    """The k largest cosines, computed in a dtype, a part of the gallery at a time."""
    unit = F.normalize(queries.to(dtype), dim=1)
    best = [
        (unit @ F.normalize(part.to(dtype), dim=1).T).topk(min(k, len(part)), dim=1).values
        for part in gallery.split(1 << 20)
    ]
    return torch.cat(best, dim=1).topk(k, dim=1).values


def _top_k(context: Context, kernels: Machine, queries: int, *, int8: bool) -> Cell:
    """torch gets a gallery that is normalised already; ours normalises as it reads."""
    rows, width, k = (200, 32, 3) if context.rehearsal else (10_000_000, 512, 10)
    gallery, asked = _unit_rows(context, rows, width), _unit_rows(context, queries, width)
    held = gallery
    if int8:
        held = torch.empty(rows, width, dtype=torch.int8, device=context.device)
        for part, source in zip(held.split(1 << 20), gallery.split(1 << 20), strict=True):
            largest = source.float().abs().amax(dim=1, keepdim=True)
            part.copy_((source.float() * 127 / largest).round())
    peers: dict[str, Call] = {
        "torch matmul + topk": lambda: (asked @ gallery.T).topk(k, dim=1).values
    }
    if not int8:
        peers["triton"] = lambda: triton_top_k(asked, gallery, k)[0]
    return Cell(
        f"top_k {k} {queries} x {rows} x {width} {'int8' if int8 else 'same type'}",
        lambda: kernels.top_k(asked, held, k)[0],
        lambda: _best(asked[:CHECKED], held, k, asked.dtype),
        lambda: _best(asked[:CHECKED], held, k, torch.float64),
        2 * queries * rows * width,
        held.nbytes,
        peers,
        "torch",
        5.0,
    )


def _similarity(context: Context, kernels: Machine) -> Cell:
    queries, labels, width = (3, 100, 32) if context.rehearsal else (256, 1000, 512)
    asked, keys = _unit_rows(context, queries, width), _unit_rows(context, labels, width)
    return Cell(
        f"similarity {queries} x {labels} x {width}",
        lambda: kernels.similarity(asked, keys, 100.0),
        lambda: reference.similarity(asked, keys, 100.0),
        lambda: reference.similarity(asked[:CHECKED].double(), keys.double(), 100.0),
        2 * queries * labels * width,
        asked.nbytes + keys.nbytes + 4 * queries * labels,
        {
            "torch": lambda: reference.similarity(asked, keys, 100.0),
            "triton": lambda: triton_similarity(asked, keys, 100.0),
        },
    )


def _resize(context: Context, kernels: Machine) -> Cell:
    """The error is to the integer oracle, which Pillow's bits agree with: it must be zero."""
    count, height, width, size = (2, 30, 40, 16) if context.rehearsal else (1024, 375, 500, 224)
    shape = (count, height, width, 3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=context.device)
    listed, planes = list(images), images.permute(0, 3, 1, 2)
    sides = size, int(size * width / height)
    left = round((sides[1] - size) / 2)

    def interpolate() -> torch.Tensor:
        wide = F.interpolate(planes.float(), sides, mode="bicubic", antialias=True)
        return wide[..., left : left + size].round().clamp(0, 255).to(torch.uint8)

    def by_integers() -> torch.Tensor:
        return reference.resize_crop([image.cpu() for image in listed[:CHECKED]], size)

    return Cell(
        f"resize_crop {count} x {width}x{height} to {size}",
        lambda: kernels.resize_crop(listed, size),
        lambda: by_integers().to(context.device),
        lambda: by_integers().to(context.device).double(),
        0.0,
        images.nbytes * min(1.0, height / width) + 3 * count * size * size,
        {"torch interpolate, antialias": interpolate},
        target=100_000.0,
        items=count,
    )
