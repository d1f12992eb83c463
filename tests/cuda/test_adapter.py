"""The adapter's refusals, each with its sentence, and what it borrows; all without a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from clipfast.backends import select_ops
from clipfast.backends.cuda import make_ops, ops_over, unsupported_reason
from clipfast.backends.cuda_kernels import OWN_OPERATIONS, CudaKernels
from clipfast.backends.reference import REFERENCE
from clipfast.errors import ConfigurationError, UnsupportedError
from clipfast.ops import OPERATIONS
from tests.cuda.native import built_for_cuda

BF16, FP16, UINT8, INT8 = torch.bfloat16, torch.float16, torch.uint8, torch.int8
kernels = CudaKernels(REFERENCE)


def refusal(call, *arguments, **options) -> str:
    with pytest.raises(ConfigurationError) as caught:
        call(*arguments, **options)
    return str(caught.value)


def misaligned(*shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    """Contiguous, but two bytes beyond an aligned address."""
    count = torch.Size(shape).numel()
    return torch.zeros(count + 1, dtype=dtype)[1:].view(shape)


def zeros(*shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


def offsets(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


ATTENTION = {
    "dtype": (zeros(50, 192, dtype=torch.float32), "qkv is float32; expected float16 or bfloat16"),
    "shape": (zeros(1, 50, 192), "qkv has shape (1, 50, 192); expected (rows, columns)"),
    "stride": (zeros(192, 50).T, "qkv has stride 50 in its last axis; expected 1"),
    "rows": (zeros(50, 196)[:, :192], "qkv has rows of 392 bytes"),
    "alignment": (misaligned(50, 192), "expected both to be multiples of 16"),
    "device": (zeros(50, 192), "qkv is on cpu; expected a CUDA device"),
}


@pytest.mark.parametrize("case", ATTENTION)
def test_attention_refuses(case):
    qkv, sentence = ATTENTION[case]
    assert sentence in refusal(kernels.attention, qkv, 1, length=50)


def test_attention_refuses_sequences():
    qkv = zeros(50, 192)
    assert "expected exactly one" in refusal(kernels.attention, qkv, 1)
    both = refusal(kernels.attention, qkv, 1, length=50, cu_seqlens=offsets(0, 50))
    assert "expected exactly one" in both
    assert "got 50 rows and length=7" in refusal(kernels.attention, qkv, 1, length=7)
    wrong = refusal(kernels.attention, qkv, 1, cu_seqlens=offsets(0, 50).long())
    assert "cu_seqlens is int64; expected int32" in wrong
    strided = offsets(0, 9, 50, 9)[::2]
    assert "cu_seqlens has stride 2" in refusal(kernels.attention, qkv, 1, cu_seqlens=strided)
    assert "(1, 2); expected (count,)" in refusal(
        kernels.attention, qkv, 1, cu_seqlens=offsets(0, 50)[None]
    )
    assert "cu_seqlens is empty" in refusal(kernels.attention, qkv, 1, cu_seqlens=offsets())
    columns = refusal(kernels.attention, zeros(50, 200), 1, length=50)
    assert "qkv has 200 columns; expected a multiple of 3 * heads = 3" in columns
    device = refusal(kernels.attention, qkv, 1, cu_seqlens=offsets(0, 50).to("meta"))
    assert "got qkv on cpu, cu_seqlens on meta; expected one device" in device


def test_attention_pool_refuses():
    query, kv = zeros(2, 64), zeros(100, 128)
    pool = kernels.attention_pool
    assert "query is float32" in refusal(pool, query.float(), kv, 1, length=50)
    assert "kv is float16; expected bfloat16" in refusal(pool, query, kv.half(), 1, length=50)
    assert "kv has shape (100, 64); expected (rows, 128)" in refusal(
        pool, query, kv[:, :64], 1, length=50
    )
    assert "query has stride 2 in its last axis" in refusal(pool, zeros(64, 2).T, kv, 1, length=50)
    assert "to be multiples of 16" in refusal(pool, query, misaligned(100, 128), 1, length=50)
    assert "got 2 queries for 4 sequences" in refusal(pool, query, kv, 1, length=25)
    assert "key_rows is int64" in refusal(
        pool, query, kv, 1, cu_seqlens=offsets(0, 1, 3), key_rows=torch.zeros(3).long()
    )
    assert "expected a CUDA device" in refusal(pool, query, kv, 1, length=50)


def embed(**changes):
    given = {
        "pixels": zeros(2, 3, 64, 64, dtype=UINT8),
        "weight": zeros(64, 3072),
        "bias": zeros(64),
        "class_row": zeros(64),
        "positions": zeros(4, 64),
    } | changes
    return kernels.patch_embed(**given)


PATCH_EMBED = {
    "weight is float32; expected float16 or bfloat16": {"weight": zeros(64, 3072).float()},
    "expected both to be multiples of 16": {"weight": misaligned(64, 3072)},
    "bias has shape (63,); expected (64,)": {"bias": zeros(63)},
    "bias is float16; expected bfloat16 or float32": {"bias": zeros(64, dtype=FP16)},
    "class_row begins at address": {"class_row": misaligned(64)},
    "positions has shape (5, 64); expected (4, 64)": {"positions": zeros(5, 64)},
    "positions has strides (1, 4); expected contiguous": {"positions": zeros(64, 4).T},
    "pixels have shape (2, 3, 64, 32); expected (B, 3, R, R)": {
        "pixels": zeros(2, 3, 64, 32, dtype=UINT8)
    },
    "pixels is on cpu; expected a CUDA device": {},
}


@pytest.mark.parametrize("sentence", PATCH_EMBED)
def test_patch_embed_refuses(sentence):
    assert sentence in refusal(embed, **PATCH_EMBED[sentence])


COSINES = {
    "queries is float32; expected float16 or bfloat16": (zeros(2, 64).float(), zeros(9, 64)),
    "is float16; expected bfloat16 or int8": (zeros(2, 64), zeros(9, 64, dtype=FP16)),
    "has shape (9, 32); expected (rows, 64)": (zeros(2, 64), zeros(9, 32)),
    "expected both to be multiples of 16": (zeros(2, 64), misaligned(9, 64)),
    "has stride 9 in its last axis": (zeros(2, 64), zeros(64, 9).T),
    "queries is on cpu; expected a CUDA device": (zeros(2, 64), zeros(9, 64, dtype=INT8)),
}


@pytest.mark.parametrize("sentence", COSINES)
def test_similarity_and_top_k_refuse(sentence):
    queries, gallery = COSINES[sentence]
    assert sentence in refusal(kernels.similarity, queries, gallery, 100.0)
    assert sentence in refusal(kernels.top_k, queries, gallery, 3)


def test_an_int8_gallery_has_nobody_to_borrow_from():
    width = "an int8 gallery has width 24 and k=1; expected a multiple of 16 and k <= 128"
    queries, gallery = zeros(2, 24), zeros(9, 24, dtype=INT8)
    assert width == refusal(kernels.similarity, queries, gallery, 100.0)
    assert width == refusal(kernels.top_k, queries, gallery, 1)
    wide = zeros(2, 64), zeros(200, 64, dtype=INT8)
    assert "width 64 and k=129" in refusal(kernels.top_k, *wide, 129)


def test_resize_crop_refuses():
    image = zeros(9, 8, 3, dtype=UINT8)
    assert "image 1 is float32; expected uint8" in refusal(
        kernels.resize_crop, [image, image.float()], 4
    )
    assert "image 0 has shape (9, 8); expected (H, W, 3)" in refusal(
        kernels.resize_crop, [image[:, :, 0]], 4
    )
    assert "image 0 has strides (24, 6, 1)" in refusal(kernels.resize_crop, [image[:, ::2]], 4)
    assert "size=0; expected 1 <= size" in refusal(kernels.resize_crop, [image], 0)
    assert "image 0 is on cpu; expected a CUDA device" in refusal(kernels.resize_crop, [image], 4)


def random(*shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def test_shapes_without_a_kernel_are_borrowed():
    qkv = random(20, 3 * 32)
    assert torch.equal(kernels.attention(qkv, 1, length=10), REFERENCE.attention(qkv, 1, length=10))
    query, kv = random(2, 36), random(20, 72)
    assert torch.equal(
        kernels.attention_pool(query, kv, 1, length=10),
        REFERENCE.attention_pool(query, kv, 1, length=10),
    )
    queries, gallery = random(2, 60), random(300, 60)
    assert torch.equal(
        kernels.similarity(queries, gallery, 9.0), REFERENCE.similarity(queries, gallery, 9.0)
    )
    wide = random(300, 64)
    for k, rows in ((3, gallery), (200, wide)):
        got = kernels.top_k(rows[:2], rows, k)
        expected = REFERENCE.top_k(rows[:2], rows, k)
        assert torch.equal(got[1], expected[1])
    weight = random(16, 3 * 8 * 8)
    rest = (random(16), random(16), random(16, 16))
    pixels = torch.full((1, 3, 32, 32), 7, dtype=UINT8)
    for source in (pixels, pixels.to(BF16)):
        assert torch.equal(
            kernels.patch_embed(source, weight, *rest),
            REFERENCE.patch_embed(source, weight, *rest),
        )


def test_describe_says_what_is_borrowed_and_from_where():
    base = replace(REFERENCE, name="triton", sources={"convolution": "reference (torch)"})
    described = ops_over(base).describe()
    assert set(described) == set(OPERATIONS)
    assert described["convolution"] == "reference (torch)"
    assert described["linear"] == "triton"
    for name in OWN_OPERATIONS:
        assert described[name].startswith("cuda (")
        assert described[name].endswith("; else triton)")


def test_reasons():
    assert unsupported_reason(torch.device("cpu"), BF16) == (
        "its kernels run on CUDA devices, not on cpu"
    )
    assert unsupported_reason(torch.device("cuda"), torch.float32) == (
        "its kernels multiply in float16 and bfloat16, not in float32"
    )
    with pytest.raises(UnsupportedError, match="not on cpu"):
        select_ops("cuda", device="cpu", dtype=BF16)
    ops = ops_over(REFERENCE)
    assert ops.unsupported_reason("linear", device=torch.device("cpu"), dtype=BF16) is None
    reason = ops.unsupported_reason("attention", device=torch.device("cpu"), dtype=BF16)
    assert reason == "its kernels run on CUDA devices, not on cpu"


@pytest.mark.skipif(built_for_cuda(), reason="the native module has CUDA kernels")
def test_a_cpu_build_says_how_to_get_the_kernels():
    sentence = "clipfast was built without CUDA kernels; build it with CLIPFAST_CUDA_ARCHS"
    assert unsupported_reason(torch.device("cuda"), BF16).startswith(sentence)
    with pytest.raises(UnsupportedError, match="built without CUDA kernels"):
        make_ops()
