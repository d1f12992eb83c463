"""The real shapes of every kernel: the published towers' layers, as calls on meta tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from triton import cdiv

from benchmarks.compiled.triton_kernels import MULTIPROCESSORS
from clipfast.config import ARCHITECTURES, ModelConfig, VisionTransformerConfig
from clipfast.kernels.attention import attention, tree_attention
from clipfast.kernels.attention_pool import attention_pool
from clipfast.kernels.configs import linear_tile
from clipfast.kernels.hardware import Hardware
from clipfast.kernels.layer_norm import layer_norm
from clipfast.kernels.linear import linear
from clipfast.kernels.linear_8bit import linear_8bit, unsupported_reason
from clipfast.kernels.patch_embed import patch_embed
from clipfast.kernels.similarity import log_sum_exp, similarity
from clipfast.kernels.top_k import top_k

Calls = dict[str, Callable[[], object]]
IMAGES, TEXTS, TEXT_ROWS = 256, 1024, 10_240
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
# Towers whose kernels differ: patch 32, 16, 14; head dims 64, 80, 88, 104; GELU and QuickGELU (SiLU after the fold).
TOWERS = {
    "ViT-B-32": "silu",
    "ViT-B-16": "silu",
    "ViT-L-14": "silu",
    "ViT-L-14-336": "silu",
    "ViT-H-14": "gelu",
    "ViT-g-14": "gelu",
    "ViT-bigG-14": "gelu",
}


@dataclass(frozen=True)
class Case:
    """product: the class of matrix instructions expected: "warpgroup", "warp", or None for none.
    narrow: loads narrower than 16 bytes are the operand's own (patches of 14 pixels)."""

    call: Callable[[], object]
    product: str | None
    narrow: bool = False


def meta(*shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def cases(architecture: int) -> dict[str, Case]:
    """Every case by name: the kernels' own words, then the shapes."""
    hardware = Hardware(architecture, MULTIPROCESSORS[architecture])
    found: dict[str, Case] = {}
    for name, activation in TOWERS.items():
        config = ARCHITECTURES[name]
        assert isinstance(config.vision, VisionTransformerConfig)
        found |= _vision(config, config.vision, activation, hardware)
        found |= _text(config, activation, hardware)
    found |= _small(hardware)
    found |= _gallery(hardware)
    for dtype in (torch.float8_e4m3fn, torch.int8):
        if unsupported_reason(dtype, architecture) is None:
            found |= _eight_bit(hardware, dtype)
    return found


def _linear(
    name: str,
    rows: int,
    columns: int,
    depth: int,
    hardware: Hardware,
    *,
    activation: str | None = None,
    residual: torch.dtype | None = None,
    dtype: torch.dtype = BF16,
    stream: bool = False,
) -> dict[str, Case]:
    """stream: with the residual it writes a copy and the rows' sums, without it reads what a product of depth wrote."""
    added, parts = (
        residual is not None,
        cdiv(depth, linear_tile(16, rows, depth, depth, hardware).n),
    )
    call = partial(
        linear,
        meta(rows, depth, dtype=dtype),
        meta(columns, depth, dtype=dtype),
        meta(columns, dtype=dtype),
        activation=activation,
        residual=None if residual is None else meta(rows, columns, dtype=residual),
        copy=meta(rows, columns, dtype=dtype) if stream and residual != dtype and added else None,
        return_sums=stream and added,
        row_sums=meta(rows, 2 * parts, dtype=FP32) if stream and not added else None,
        eps=1e-5,
        hardware=hardware,
    )
    words = [
        "linear", name, f"{rows}x{columns}x{depth}", activation, f"+{residual}" if residual else None,
        "stream" if stream else None, str(dtype),
    ]  # fmt: skip
    label = " ".join(word for word in words if word).replace("torch.", "")
    return {label: Case(call, None if dtype == FP32 else "warpgroup")}


def _layers(
    name: str, rows: int, width: int, mlp: int, activation: str, hardware: Hardware
) -> dict[str, Case]:
    """The four products of a block, the residual stream in fp32, with a LayerNorm before them and without."""
    x = meta(rows, width, dtype=FP32)
    call = partial(layer_norm, x, None, None, 1e-5, dtype=BF16, hardware=hardware)
    found = {}
    for stream in (False, True):
        found |= _linear(f"{name} qkv", rows, 3 * width, width, hardware, stream=stream)
        found |= _linear(
            f"{name} out_proj", rows, width, width, hardware, residual=FP32, stream=stream
        )
        found |= _linear(
            f"{name} c_fc", rows, mlp, width, hardware, activation=activation, stream=stream
        )
        found |= _linear(f"{name} c_proj", rows, width, mlp, hardware, residual=FP32, stream=stream)
    return {
        **found,
        f"layer_norm {name} {rows}x{width}": Case(call, None),
    }


def _vision(
    config: ModelConfig, vision: VisionTransformerConfig, activation: str, hardware: Hardware
) -> dict[str, Case]:
    name, width, length = config.name, vision.width, vision.tokens
    rows, size, patch = IMAGES * length, vision.image_size, vision.patch_size
    pixels = meta(IMAGES, 3, size, size, dtype=torch.uint8)
    embed = partial(
        patch_embed,
        pixels,
        meta(width, 3 * patch * patch),
        meta(width),
        meta(width),
        meta(length - 1, width),
    )
    attend = partial(
        attention, meta(rows, 3 * width), vision.heads, length=length, hardware=hardware
    )
    pool = partial(
        attention_pool, meta(IMAGES, width), meta(rows, 2 * width), vision.heads, length=length
    )
    heads = f"L {length} Dh {vision.head_dim}"
    return {
        f"patch_embed {name} P {patch} D {width}": Case(embed, "warpgroup", narrow=patch == 14),
        **_layers(name, rows, width, vision.mlp_width, activation, hardware),
        f"attention {name} {heads}": Case(attend, "warpgroup"),
        f"attention_pool {name} {heads}": Case(pool, None),
    }


def _text(config: ModelConfig, activation: str, hardware: Hardware) -> dict[str, Case]:
    text = config.text
    qkv, cu = meta(TEXT_ROWS, 3 * text.width), meta(TEXTS + 1, dtype=torch.int32)
    rows = meta(TEXTS * 12, dtype=torch.int32)
    name = f"{config.name} text"
    packed = partial(attention, qkv, text.heads, cu_seqlens=cu, causal=True, hardware=hardware)
    tree = partial(tree_attention, qkv, text.heads, cu, cu, rows, hardware=hardware)
    pool = partial(
        attention_pool,
        meta(TEXTS, text.width),
        meta(TEXT_ROWS, 2 * text.width),
        text.heads,
        cu_seqlens=cu,
        key_rows=rows,
    )
    return {
        **_layers(name, TEXT_ROWS, text.width, text.mlp_width, activation, hardware),
        f"attention {name} packed Dh {text.head_dim}": Case(packed, "warp"),
        f"attention {name} tree Dh {text.head_dim}": Case(tree, "warp"),
        f"attention_pool {name} key_rows": Case(pool, None),
    }


def _small(hardware: Hardware) -> dict[str, Case]:
    """One image, other dtypes, the normalisation inside the products, and the options of layer_norm."""
    found: dict[str, Case] = {}
    for rows in (50, 1600):
        for stream in (False, True):
            found |= _linear("few rows", rows, 768, 3072, hardware, residual=FP32, stream=stream)
            found |= _linear(
                "few rows", rows, 3072, 768, hardware, activation="silu", stream=stream
            )
    for dtype in (FP16, FP32):
        found |= _linear("dtype", 12_800, 768, 3072, hardware, residual=FP32, dtype=dtype)
        found |= _linear("dtype", 12_800, 3072, 768, hardware, activation="silu", dtype=dtype)
    found |= _linear("dtype", 12_800, 768, 3072, hardware, residual=BF16)
    found |= _linear("chain", 65_792, 1024, 4096, hardware, residual=BF16, stream=True)
    for dtype in (FP16, FP32):
        product = None if dtype == FP32 else "warpgroup"
        for length, width in ((50, 768), (257, 1280)):
            qkv = meta(64 * length, 3 * width, dtype=dtype)
            call = partial(
                attention, qkv, 16 if width > 768 else 12, length=length, hardware=hardware
            )
            found[f"attention dtype L {length} D {width} {dtype}"] = Case(call, product)
    for patch in (14, 32):
        weight, vector = meta(768, 3 * patch * patch), meta(768)
        floats = meta(64, 3, 224, 224)
        positions = meta((224 // patch) ** 2, 768)
        call = partial(patch_embed, floats, weight, None, vector, positions)
        found[f"patch_embed float P {patch}"] = Case(call, "warpgroup", narrow=patch == 14)
    for width in (512, 768, 1280, 2048):
        x, vector = meta(TEXT_ROWS, width), meta(width)
        residual = meta(TEXT_ROWS, width, dtype=FP32)
        added = partial(layer_norm, x, vector, vector, 1e-5, residual, hardware=hardware)
        found[f"layer_norm residual D {width}"] = Case(added, None)
        for dtype in (torch.int8, torch.float8_e4m3fn):
            if dtype == torch.int8 or hardware.architecture >= 89:
                call = partial(layer_norm, x, None, None, 1e-5, dtype=dtype, hardware=hardware)
                found[f"layer_norm quantised D {width} {dtype}"] = Case(call, None)
    return found


def _gallery(hardware: Hardware) -> dict[str, Case]:
    found: dict[str, Case] = {}
    for dtype in (BF16, FP32):
        product = None if dtype == FP32 else "warpgroup"
        for width in (512, 1024):
            queries, gallery = meta(256, width, dtype=dtype), meta(1_000_000, width, dtype=dtype)
            shape = f"E {width} {dtype}"
            for labels in (1000, 1024):
                call = partial(
                    similarity, queries, meta(labels, width, dtype=dtype), 100.0, hardware=hardware
                )
                found[f"similarity {labels} {shape}"] = Case(call, product)
            found[f"log_sum_exp {shape}"] = Case(
                partial(log_sum_exp, queries, gallery, 100.0, hardware=hardware), product
            )
            for k in (1, 10, 100):
                found[f"top_k {k} {shape}"] = Case(
                    partial(top_k, queries, gallery, k, hardware=hardware), product
                )
    return found


def _eight_bit(hardware: Hardware, dtype: torch.dtype) -> dict[str, Case]:
    """A block's products with one scale a row, with one a row and 128 columns, and quantised for the next one."""
    found = {}
    # Triton gives int8 no tcgen05.
    product = "warp" if dtype == torch.int8 and hardware.family == 100 else "warpgroup"
    # Many rows, one image of L/14, one of B/32.
    for rows in (16_384, 257, 50):
        for name, columns, depth, groups, options in (
            ("qkv", 3072, 1024, 1, {}),
            ("c_fc", 4096, 1024, 1, {"activation": "silu", "dtype": dtype}),
            ("c_proj", 1024, 4096, 32, {"residual": meta(rows, 1024, dtype=FP32)}),
        ):
            call = partial(
                linear_8bit,
                meta(rows, depth, dtype=dtype),
                meta(rows, groups, dtype=FP32),
                meta(columns, depth, dtype=dtype),
                meta(columns, dtype=FP32),
                meta(columns),
                hardware=hardware,
                **options,
            )
            label = f"linear_8bit {name} {rows}x{columns}x{depth} {dtype}".replace("torch.", "")
            found[label] = Case(call, product)
    return found
