"""Every operation of the CUDA kernels against float64, the same bits twice: on the GPU where there is one.

`small` tests also run on the checking machine here, so that what a GPU will run is known to work, and under the
sanitizer on a GPU. `published` ones take the towers' own shapes and need the GPU.
"""

from __future__ import annotations

import pytest
import torch

from clipfast.backends import reference
from tests.cuda.machine import machine, missing_device
from tests.cuda.parity import assert_parity

BF16, FP16 = torch.bfloat16, torch.float16
HALVES = pytest.mark.parametrize("dtype", [BF16, FP16], ids=["bf16", "fp16"])
published = pytest.mark.skipif(missing_device() is not None, reason=str(missing_device()))
here = machine()
# What they show without a GPU, the tests of each loop show too.
pytestmark = pytest.mark.slow


def normal(*shape: int, dtype: torch.dtype = BF16, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(here.device, dtype)


def qkv_rows(rows: int, heads: int, head_dim: int, dtype: torch.dtype) -> torch.Tensor:
    """Random rows whose scores spread over several units, as trained queries' do."""
    qkv = normal(rows, 3 * heads * head_dim, dtype=torch.float32)
    qkv[:, : heads * head_dim] *= 3 * head_dim**-0.5
    return qkv.to(dtype)


def offsets(lengths: list[int]) -> torch.Tensor:
    ends = torch.tensor([0, *lengths]).cumsum(0)
    return ends.to(here.device, torch.int32)


def check_attention(qkv: torch.Tensor, heads: int, **arguments) -> None:
    out = here.attention(qkv, heads, **arguments)
    assert torch.equal(out, here.attention(qkv, heads, **arguments))
    plain = reference.attention(qkv, heads, **arguments)
    assert_parity(out, plain, reference.attention(qkv.double(), heads, **arguments))


@HALVES
@pytest.mark.parametrize(
    ("images", "heads", "length", "head_dim"),
    [
        *((2, 2, 17, 64), (1, 1, 50, 64), (1, 1, 77, 64)),
        *((1, 1, 50, 72), (1, 1, 33, 80), (1, 1, 20, 88), (1, 1, 20, 104)),
    ],
)
def test_small_attention(images, heads, length, head_dim, dtype):
    check_attention(qkv_rows(images * length, heads, head_dim, dtype), heads, length=length)


@pytest.mark.parametrize("head_dim", [64, 72, 80, 88, 104])
def test_small_attention_causal_and_packed(head_dim):
    qkv = qkv_rows(45, 1, head_dim, BF16)
    check_attention(qkv, 1, length=15, causal=True)
    for causal in (True, False):
        check_attention(qkv, 1, cu_seqlens=offsets([3, 1, 33, 8]), causal=causal)


@published
@HALVES
@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize(
    ("length", "head_dim"),
    [(50, 64), (197, 64), (257, 64), (577, 64), (257, 80), (730, 80), (257, 88), (257, 104)],
)
def test_published_attention(batch, length, head_dim, dtype):
    check_attention(qkv_rows(batch * length, 16, head_dim, dtype), 16, length=length)


@published
@pytest.mark.parametrize("length", [1, 16, 33, 65, 77, 226, 300, 500])
@pytest.mark.parametrize("head_dim", [64, 72, 80, 88, 104])
def test_published_attention_of_other_lengths(length, head_dim):
    qkv = qkv_rows(3 * length, 4, head_dim, BF16)
    for causal in (True, False):
        check_attention(qkv, 4, length=length, causal=causal)


@published
@HALVES
@pytest.mark.parametrize(("heads", "head_dim"), [(8, 64), (16, 64), (20, 64), (8, 80), (8, 104)])
def test_published_texts(heads, head_dim, dtype):
    lengths = torch.randint(3, 78, (300,), generator=torch.Generator().manual_seed(1)).tolist()
    qkv = qkv_rows(sum(lengths), heads, head_dim, dtype)
    check_attention(qkv, heads, cu_seqlens=offsets(lengths), causal=True)


@published
def test_published_attention_beyond_32_bits_of_elements_and_beside_neighbours():
    images, length, heads = 2900, 257, 16
    qkv = normal(length, 3 * heads * 64, dtype=torch.float32)
    rows = qkv.to(BF16).repeat(images, 1)
    assert rows.numel() > 2**31
    out = here.attention(rows, heads, length=length)
    alone = here.attention(rows[:length], heads, length=length)
    for image in (0, 1, images // 2, images - 1):
        assert torch.equal(out[image * length : (image + 1) * length], alone)


def check_pool(images: int, length: int, heads: int, head_dim: int, dtype: torch.dtype) -> None:
    query = normal(images, heads * head_dim, dtype=dtype)
    kv = normal(images * length, 2 * heads * head_dim, dtype=dtype, seed=1)
    out = here.attention_pool(query, kv, heads, length=length)
    assert torch.equal(out, here.attention_pool(query, kv, heads, length=length))
    plain = reference.attention_pool(query, kv, heads, length=length)
    truth = reference.attention_pool(query.double(), kv.double(), heads, length=length)
    assert_parity(out, plain, truth)


@HALVES
@pytest.mark.parametrize("head_dim", [64, 104])
def test_small_attention_pool(head_dim, dtype):
    check_pool(2, 19, 2, head_dim, dtype)


@published
@HALVES
@pytest.mark.parametrize(
    ("length", "heads", "head_dim"), [(50, 12, 64), (257, 16, 104), (577, 16, 64)]
)
def test_published_attention_pool(length, heads, head_dim, dtype):
    check_pool(64, length, heads, head_dim, dtype)


def check_patch_embed(
    images: int, size: int, patch: int, width: int, dtype: torch.dtype, wide: torch.dtype
) -> None:
    grid, depth = size // patch, 3 * patch * patch
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, size, size), generator=generator, dtype=torch.uint8)
    pixels = pixels.to(here.device)
    weight = normal(width, depth, dtype=torch.float32) / (64 * depth**0.5)
    weight = weight.to(dtype)
    rest = [normal(width, dtype=wide, seed=seed) for seed in (1, 2)]
    rest.append(normal(grid * grid, width, dtype=wide, seed=3))
    out = here.patch_embed(pixels, weight, *rest)
    assert torch.equal(out, here.patch_embed(pixels, weight, *rest))
    plain = reference.patch_embed(pixels, weight, *(x.to(dtype) for x in rest))
    truth = reference.patch_embed(pixels, weight.double(), *(x.double() for x in rest))
    assert_parity(out, plain, truth)


@HALVES
@pytest.mark.parametrize(("size", "patch", "width"), [(28, 14, 24), (32, 16, 136), (64, 32, 64)])
def test_small_patch_embed(size, patch, width, dtype):
    check_patch_embed(2, size, patch, width, dtype, torch.float32)


@published
@HALVES
@pytest.mark.parametrize("wide", [torch.float32, None], ids=["wide", "narrow"])
@pytest.mark.parametrize(
    ("size", "patch", "width"),
    [
        (224, 32, 768),
        (224, 16, 768),
        (224, 14, 1024),
        (336, 14, 1024),
        (224, 14, 1280),
        (224, 14, 1664),
    ],
)
def test_published_patch_embed(size, patch, width, wide, dtype):
    check_patch_embed(9, size, patch, width, dtype, wide or dtype)


@published
def test_published_patch_embed_beyond_32_bits_of_bytes():
    images = 14_500
    pixels = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8, device=here.device)
    weight, rest = normal(64, 3072) / 3000, [normal(64), normal(64), normal(49, 64)]
    many = pixels.repeat(images, 1, 1, 1)
    assert many.numel() > 2**31
    out, alone = here.patch_embed(many, weight, *rest), here.patch_embed(pixels, weight, *rest)
    assert (out == alone).all()


def run_chain(pixels: torch.Tensor, parameters: list[torch.Tensor], wait=lambda: None):
    """Tokens, attention over them as (q, k, v), and a pool over both: each reads what the kernel before it writes."""
    heads, length = 16, 50
    qkv = here.patch_embed(pixels, *parameters).flatten(0, 1)
    wait()
    out = here.attention(qkv, heads, length=length)
    wait()
    return here.attention_pool(out[: len(pixels)], qkv[:, : 2 * 1024], heads, length=length)


@published
@pytest.mark.parametrize("images", [1, 64])
def test_published_kernels_in_a_row_wait_for_each_other(images):
    parameters = [normal(3072, 3072) / 3000, normal(3072), normal(3072), normal(49, 3072)]
    batches = [
        torch.randint(0, 256, (images, 3, 224, 224), dtype=torch.uint8, device=here.device)
        for _ in range(20)
    ]
    alone = [run_chain(pixels, parameters, torch.cuda.synchronize) for pixels in batches]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = [run_chain(pixels, parameters) for pixels in batches]
    for _ in range(5):
        in_a_row = [run_chain(pixels, parameters) for pixels in batches]
        graph.replay()
        torch.cuda.synchronize()
        assert all(map(torch.equal, in_a_row, alone))
        assert all(map(torch.equal, captured, alone))


def check_resize(shapes: list[tuple[int, int]], size: int) -> None:
    """The oracle is the integer one, which tests here hold to Pillow's bits."""
    generator = torch.Generator().manual_seed(size)
    images = [
        torch.randint(0, 256, (*shape, 3), generator=generator, dtype=torch.uint8)
        for shape in shapes
    ]
    there = [image.to(here.device) for image in images]
    out = here.resize_crop(there, size)
    assert torch.equal(out, here.resize_crop(there, size))
    assert torch.equal(out.cpu(), reference.resize_crop(images, size))


def test_small_resize():
    check_resize([(40, 50), (33, 20), (24, 24), (90, 13), (5, 7)], 24)


@published
@pytest.mark.parametrize("size", [224, 336, 448])
def test_published_resize(size):
    generator = torch.Generator().manual_seed(size)
    sides = torch.randint(1, 1500, (20, 2), generator=generator).tolist()
    check_resize([(375, 500), (500, 375), *map(tuple, sides)], size)
