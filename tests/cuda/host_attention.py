"""Attention of csrc/cuda on the checking machine, called as the contract of operations is."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tests.cuda.host_library import Change, address, call, load

# multiprocessors, shared memory of a multiprocessor and of a block: A100, L40S, H100, B200, RTX PRO 6000.
DEVICES = {
    80: (108, 167_936, 166_912),
    89: (142, 102_400, 101_376),
    90: (132, 233_472, 232_448),
    100: (148, 233_472, 232_448),
    120: (188, 102_400, 101_376),
}
LOOPS = ("resident", "online", "packed")


@dataclass(frozen=True)
class Plan:
    loop: str
    key_tiles: int
    warps: int
    row_blocks: int
    first_row: int
    kept_rows: int
    keeps_all: bool
    shared_bytes: int
    blocks_a_multiprocessor: int
    query_block: int


def plan(
    architecture: int,
    sequences: int,
    length: int,
    heads: int,
    head_dim: int,
    *,
    packed: bool = False,
    causal: bool = False,
) -> Plan:
    limits = torch.tensor(DEVICES[architecture], dtype=torch.int32)
    out = torch.zeros(10, dtype=torch.int32)
    load("design").plan(
        *(sequences, length, heads, head_dim, int(packed), int(causal)),
        *(address(limits), address(out)),
    )
    loop, tiles, warps, blocks, first, kept, keeps, *rest = out.tolist()
    return Plan(LOOPS[loop], tiles, warps, blocks, first, kept, bool(keeps), *rest)


def attention(
    qkv: torch.Tensor,
    heads: int,
    *,
    cu_seqlens: torch.Tensor | None = None,
    length: int | None = None,
    causal: bool = False,
    architecture: int = 90,
    reversed_warps: bool = False,
    changes: tuple[Change, ...] = (),
) -> torch.Tensor:
    library = load("attention", changes)
    rows, width = qkv.shape[0], qkv.shape[1] // 3
    sequences = rows // length if length is not None else len(cu_seqlens) - 1
    limits = torch.tensor(DEVICES[architecture], dtype=torch.int32)
    out = torch.full((rows, width), torch.nan, dtype=qkv.dtype)
    call(
        *(library, "attention", address(qkv), address(out), address(cu_seqlens), rows),
        *(qkv.stride(0), out.stride(0), sequences, length or 0, heads, width // heads),
        *(int(causal), int(qkv.dtype == torch.bfloat16), address(limits), int(reversed_warps)),
    )
    assert library.last_bank_conflicts() == 0
    return out


def attention_pool(
    query: torch.Tensor,
    kv: torch.Tensor,
    heads: int,
    *,
    cu_seqlens: torch.Tensor | None = None,
    length: int | None = None,
    key_rows: torch.Tensor | None = None,
    reversed_warps: bool = False,
    changes: tuple[Change, ...] = (),
) -> torch.Tensor:
    sequences, width = query.shape
    out = torch.full_like(query, torch.nan)
    call(
        *(load("attention", changes), "attention_pool", address(query), address(kv), address(out)),
        *(
            address(cu_seqlens),
            address(key_rows),
            len(kv),
            0 if key_rows is None else len(key_rows),
        ),
        *(sequences, length or 0, heads, width // heads),
        *(int(query.dtype == torch.bfloat16), int(reversed_warps)),
    )
    return out
