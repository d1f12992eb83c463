"""The CUDA C++ kernels as operations: check, allocate, launch; shapes that no kernel is compiled for are borrowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from clipfast.backends.cuda_operands import (
    check_cosines,
    check_device,
    check_image,
    check_numbers,
    check_offsets,
    check_pixels,
    check_rows,
    check_sequences,
    reads_pixels,
)
from clipfast.errors import ConfigurationError
from clipfast.ops import Ops, Tensor

HEAD_DIMS = (64, 72, 80, 88, 104)
MOST_POOL_HEAD_DIM = 128
PATCHES = (14, 16, 32)
MOST_K = 128
MOST_SIZE = 1024  # of a resized image
OWN_OPERATIONS = {
    "patch_embed": f"uint8 pixels, patches {PATCHES}",
    "attention": f"head dims {HEAD_DIMS}",
    "attention_pool": f"head dims in eights to {MOST_POOL_HEAD_DIM}",
    "similarity": "widths in eights",
    "top_k": f"widths in eights, k <= {MOST_K}",
}


def _stream(device: torch.device) -> tuple[int, int]:
    index = torch.cuda.current_device() if device.index is None else device.index
    return index, torch.cuda.current_stream(device).cuda_stream


def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def _serves(queries: Tensor, gallery: Tensor, k: int = 1) -> bool:
    """Whether rows end where a 16-byte access does and k best ones can be kept; int8 has nobody to borrow from.

    Raises:
        ConfigurationError: an int8 gallery of another width, or too large a k for it.
    """
    int8 = gallery.dtype == torch.int8
    serves = queries.shape[-1] % (16 if int8 else 8) == 0 and k <= MOST_K
    if int8 and not serves:
        raise ConfigurationError(
            f"an int8 gallery has width {gallery.shape[-1]} and k={k}; expected a multiple of 16 and k <= {MOST_K}"
        )
    return serves


@dataclass(frozen=True)
class CudaKernels:
    """The kernels as operations. `base` serves the shapes that they are not compiled for.

    Every method raises ConfigurationError for an operand of the wrong dtype, shape, stride, alignment or device.
    """

    base: Ops

    def patch_embed(
        self,
        pixels: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        class_row: Tensor,
        positions: Tensor,
    ) -> Tensor:
        """See `clipfast.ops.PatchEmbed`; bias, class_row and positions in float32 or the weight's dtype."""
        width = weight.shape[0]
        patch = round((weight.shape[-1] / 3) ** 0.5)
        if patch not in PATCHES or width % 8 or not reads_pixels(pixels, patch):
            return self.base.patch_embed(pixels, weight, bias, class_row, positions)
        weights = check_rows(
            "weight", weight, width=3 * patch * patch, alignment=8 if patch == 14 else 16
        )
        strides, grid = check_pixels(pixels), pixels.shape[-1] // patch
        none = (0, True)
        shift = none if bias is None else check_numbers("bias", bias, (width,), weight.dtype)
        first = check_numbers("class_row", class_row, (width,), weight.dtype)
        places = check_numbers("positions", positions, (grid * grid, width), weight.dtype)
        device = check_device(
            pixels=pixels, weight=weight, bias=bias, class_row=class_row, positions=positions
        )
        from clipfast import _native

        out = weight.new_empty(len(pixels), grid * grid + 1, width)
        _native.cuda_patch_embed(
            *(pixels.data_ptr(), strides, len(pixels), grid, patch, weights),
            *(shift, first, places, out.data_ptr(), weight.dtype == torch.bfloat16),
            _stream(device),
        )
        return out

    def attention(
        self,
        qkv: Tensor,
        heads: int,
        *,
        cu_seqlens: Tensor | None = None,
        length: int | None = None,
        causal: bool = False,
    ) -> Tensor:
        """See `clipfast.ops.Attention`."""
        if qkv.shape[-1] % (3 * heads):
            raise ConfigurationError(
                f"qkv has {qkv.shape[-1]} columns; expected a multiple of 3 * heads = {3 * heads}"
            )
        if qkv.shape[-1] // (3 * heads) not in HEAD_DIMS:
            return self.base.attention(
                qkv, heads, cu_seqlens=cu_seqlens, length=length, causal=causal
            )
        rows = check_rows("qkv", qkv)
        offsets, sequences, each = check_sequences(len(qkv), cu_seqlens, length)
        device = check_device(qkv=qkv, cu_seqlens=cu_seqlens)
        from clipfast import _native

        out = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
        if len(out):
            _native.cuda_attention(
                *(rows, check_rows("out", out), offsets, sequences, each, heads, causal),
                *(qkv.dtype == torch.bfloat16, _stream(device)),
            )
        return out

    def attention_pool(
        self,
        query: Tensor,
        kv: Tensor,
        heads: int,
        *,
        cu_seqlens: Tensor | None = None,
        length: int | None = None,
        key_rows: Tensor | None = None,
    ) -> Tensor:
        """See `clipfast.ops.AttentionPool`."""
        head_dim = query.shape[-1] // heads
        if head_dim % 8 or head_dim > MOST_POOL_HEAD_DIM:
            return self.base.attention_pool(
                query, kv, heads, cu_seqlens=cu_seqlens, length=length, key_rows=key_rows
            )
        queries = check_rows("query", query)
        keys = check_rows("kv", kv, dtypes=(query.dtype,), width=2 * query.shape[1])
        count = len(kv) if key_rows is None else len(key_rows)
        offsets, sequences, each = check_sequences(count, cu_seqlens, length)
        listed = 0 if key_rows is None else check_offsets("key_rows", key_rows)
        if sequences != len(query):
            raise ConfigurationError(
                f"got {len(query)} queries for {sequences} sequences; expected one for each"
            )
        device = check_device(query=query, kv=kv, cu_seqlens=cu_seqlens, key_rows=key_rows)
        from clipfast import _native

        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        if len(out):
            _native.cuda_attention_pool(
                *(queries, keys, check_rows("out", out), offsets, listed, each, heads),
                *(query.dtype == torch.bfloat16, _stream(device)),
            )
        return out

    def similarity(self, queries: Tensor, keys: Tensor, scale: float) -> Tensor:
        """See `clipfast.ops.Similarity`; keys may be int8 too, their rows' scales cancel."""
        if not _serves(queries, keys):
            return self.base.similarity(queries, keys, scale)
        left, right, device = check_cosines(queries, keys, "keys")
        from clipfast import _native

        out = torch.empty(len(queries), len(keys), device=device)
        if not out.numel():
            return out
        units = _multiprocessors(device)
        scratch = torch.empty(
            _native.cuda_cosine_scratch(left, right, 0, units), dtype=torch.int64, device=device
        )
        _native.cuda_similarity(
            *(left, right, keys.dtype == torch.int8, scale, scratch.data_ptr(), out.data_ptr()),
            *(units, queries.dtype == torch.bfloat16, _stream(device)),
        )
        return out

    def top_k(self, queries: Tensor, gallery: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """See `clipfast.ops.TopK`; the gallery may be int8 too, its rows' scales cancel. NaN ranks below numbers."""
        if not _serves(queries, gallery, k):
            return self.base.top_k(queries, gallery, k)
        left, right, device = check_cosines(queries, gallery, "gallery")
        if not 1 <= k <= len(gallery):
            raise ConfigurationError(
                f"k={k}; expected 1 <= k <= {len(gallery)}, the gallery's rows"
            )
        from clipfast import _native

        scores = torch.empty(len(queries), k, device=device)
        indices = torch.empty(len(queries), k, dtype=torch.int64, device=device)
        if not len(queries):
            return scores, indices
        units = _multiprocessors(device)
        scratch = torch.empty(
            _native.cuda_cosine_scratch(left, right, k, units), dtype=torch.int64, device=device
        )
        _native.cuda_top_k(
            *(left, right, gallery.dtype == torch.int8, k, scratch.data_ptr(), scores.data_ptr()),
            *(indices.data_ptr(), units, queries.dtype == torch.bfloat16, _stream(device)),
        )
        return scores, indices

    def resize_crop(self, images: Sequence[Tensor], size: int) -> Tensor:
        """See `clipfast.ops.ResizeCrop`."""
        if not 1 <= size <= MOST_SIZE:
            raise ConfigurationError(f"size={size}; expected 1 <= size <= {MOST_SIZE}")
        if not images:
            return torch.empty(0, 3, size, size, dtype=torch.uint8, device="cuda")
        for index, image in enumerate(images):
            check_image(index, image)
        device = check_device(**{f"image {index}": image for index, image in enumerate(images)})
        from clipfast import _native

        table = torch.tensor(
            [[x.data_ptr(), x.shape[0], x.shape[1], x.stride(0)] for x in images],
            dtype=torch.int64,
        )
        planned = torch.empty(
            len(images), _native.cuda_resize_fields, dtype=torch.int64, pin_memory=True
        )
        taps = _native.cuda_plan_resize(table.data_ptr(), len(images), size, planned.data_ptr())
        plan = planned.to(device, non_blocking=True)
        scratch = torch.empty(taps, dtype=torch.int32, device=device)
        out = torch.empty(len(images), 3, size, size, dtype=torch.uint8, device=device)
        _native.cuda_resize_crop(
            *(plan.data_ptr(), scratch.data_ptr(), out.data_ptr(), len(images), size),
            _stream(device),
        )
        return out
