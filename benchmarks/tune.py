"""Times every candidate tile of a kernel on this GPU, so that kernels/configs.py can be edited with a reason.

python -m benchmarks.tune linear 65792 4096 1024        products (M, N) of depth K, bf16, with SiLU
python -m benchmarks.tune attention 64 257 16 64        sequences, length, heads, head dim
Nothing is tuned at run time and no file is written: a tile enters configs.py by hand, after `compile_report --check`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
from unittest import mock

import torch
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources

from benchmarks.gpu.context import Context
from clipfast.kernels import configs
from clipfast.kernels.attention import attention
from clipfast.kernels.configs import AttentionTile, Tile
from clipfast.kernels.hardware import hardware_of
from clipfast.kernels.linear import linear

Candidate = tuple[str, dict[str, object], Callable[[], torch.Tensor]]


def linear_candidates(rows: int, columns: int, depth: int, context: Context) -> Iterator[Candidate]:
    """Every tile of a power of two that a product can have."""
    x = torch.randn(rows, depth, device=context.device).to(context.dtype)
    weight = torch.randn(columns, depth, device=context.device).to(context.dtype) * depth**-0.5
    family = hardware_of(context.device).family
    for m, n, k, warps, stages in product(
        (64, 128, 256), (32, 64, 128, 256), (32, 64, 128), (4, 8), (2, 3, 4, 5)
    ):
        if m * n > 128 * 256 or m * n < 32 * 32 * warps:
            continue
        for slice_n in {min(n, 64), min(n, 128)}:
            tile = Tile(m, n, k, warps, stages, slice_n)
            patch = {"LINEAR": {**configs.LINEAR, (16, family): (tile,)}}
            yield str(tile), patch, lambda: linear(x, weight, None, activation="silu")[0]


def attention_candidates(
    sequences: int, length: int, heads: int, head_dim: int, context: Context
) -> Iterator[Candidate]:
    """Every tile of a power of two that dense attention can have."""
    qkv = torch.randn(sequences * length, 3 * heads * head_dim, device=context.device)
    qkv = qkv.to(context.dtype)
    key = ("dense", 16, hardware_of(context.device).family)
    for queries, keys, warps, stages in product((64, 128), (32, 64, 128), (4, 8), (1, 2, 3, 4)):
        tile = AttentionTile(queries, keys, (16, min(keys, 64)), warps, stages)
        patch = {
            "ATTENTION": {**configs.ATTENTION, key: tile},
            "ATTENTION_SPLIT_HEAD": {**configs.ATTENTION_SPLIT_HEAD, key: tile},
        }
        yield str(tile), patch, lambda: attention(qkv, heads, length=length)


CANDIDATES = {"linear": (linear_candidates, 3), "attention": (attention_candidates, 4)}


def timed(
    candidates: Iterator[Candidate], context: Context
) -> tuple[list[tuple[float, str]], list[str]]:
    """(ms, tile), the fastest first, and the tiles that do not compile, do not fit or are wrong."""
    measured, refused = [], []
    exact: torch.Tensor | None = None
    for name, patch, call in candidates:
        with mock.patch.multiple(configs, **patch):
            try:
                result = call()
            except (OutOfResources, CompilationError, RuntimeError) as error:
                refused.append(f"{name}: {type(error).__name__}")
                continue
            exact = result if exact is None else exact
            if not torch.allclose(result.float(), exact.float(), atol=0.05, rtol=0.05):
                refused.append(f"{name}: another result")
                continue
            timing = context.milliseconds(call, seconds=0.1)
            measured.append((timing.get("ms", 0.0), name))
    return sorted(measured), refused


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status: 4 without a GPU."""
    parser = argparse.ArgumentParser(description="times candidate tiles on this GPU")
    parser.add_argument("kernel", choices=CANDIDATES)
    parser.add_argument("sizes", type=int, nargs="+")
    options = parser.parse_args(arguments)
    candidates, count = CANDIDATES[options.kernel]
    if len(options.sizes) != count:
        parser.error(f"{options.kernel} takes {count} sizes, not {len(options.sizes)}")
    if not torch.cuda.is_available():
        print("no CUDA device is visible to torch: nothing was timed", file=sys.stderr)
        return 4
    context = Context(torch.device("cuda"), time.monotonic() + 3600)
    measured, refused = timed(candidates(*options.sizes, context), context)
    print(torch.cuda.get_device_name(), options.kernel, *options.sizes)
    for milliseconds, name in measured[:20]:
        print(f"{milliseconds:8.4f} ms  {name}")
    print(f"{len(refused)} tiles refused")
    return 0


if __name__ == "__main__":
    sys.exit(main())
