"""Tile sizes as data: op, dtype, width and architecture -> the tiles to choose from, each with its reason.

Nothing is tuned at run time. Where a table offers several tiles, they are ordered from the largest, and the one whose
waves are estimated to take the fewest clocks is taken: the work decides, not a timing. The tiles of one entry share the
depth k, so that a row is summed in the same order whatever the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton

from clipfast.kernels.hardware import FAMILIES, Hardware


@dataclass(frozen=True)
class Tile:
    """One program's share of a product (m, k) @ (k, n), its warps and its software pipeline.

    slice_n: the epilogue finishes this many columns at a time; copy_slice_n: where it writes a copy beside y.
    more_stages: where no residual's slice lies beside them.
    clocks: about what a step of k takes one program on a multiprocessor of its own.
    """

    m: int
    n: int
    k: int
    warps: int
    stages: int
    slice_n: int = 0
    copy_slice_n: int = 32
    more_stages: int = 0
    clocks: int = 0


def fastest(
    tiles: tuple[Tile, ...], rows: int, columns: int, depth: int, hardware: Hardware
) -> Tile:
    """The tile whose waves of programs take the fewest clocks, the larger one of two that take as many.

    A tile costs its steps of k, 600 clocks until its first operands have come, and an epilogue of 8 instructions an
    output on 128 lanes.
    """

    def clocks(tile: Tile) -> int:
        count = triton.cdiv(rows, tile.m) * triton.cdiv(columns, tile.n)
        waves = triton.cdiv(count, hardware.multiprocessors)
        steps: int = triton.cdiv(depth, tile.k)
        return int(waves * (steps * tile.clocks + 600 + tile.m * tile.n // 16))

    return min(tiles, key=clocks)


# ---- linear: (bits of x, family) -> tiles ----------------------------------------------------------------------
# 128 x 256 needs 8 warps (128 fp32 accumulators a thread). Slices of 64 columns keep the epilogue's residual and
# activation in registers. Smaller tiles fill the machine when rows are few (one image is 50 rows at width 768).
# Clocks: the multiply-adds of m x n x k over those of a multiprocessor a clock, and for small tiles what shared memory
# (128 bytes a clock) or the latency of one step, some 250 clocks, allows. Estimates, not measurements.
LINEAR: dict[tuple[int, int], tuple[Tile, ...]] = {
    # 3 stages x 48 KB + slices of 64 columns of y, residual and copy (80 KB), or 4 stages + y's (16 KB), of 227 KB;
    # wgmma m64n256k16, 2048 multiply-adds. Each slice waits for its residual: 4 wide ones wait half as often as 8.
    (16, 90): (
        Tile(128, 256, 64, 8, 3, 64, copy_slice_n=64, more_stages=1, clocks=1024),
        Tile(128, 128, 64, 8, 4, 64, copy_slice_n=64, clocks=580),
        Tile(64, 64, 64, 4, 5, 64, clocks=280),
        Tile(64, 32, 64, 4, 6, 32, clocks=250),
    ),
    # As 90, 4096 multiply-adds. The accumulator lives in tensor memory, so registers are free for the epilogue; 64 x 64
    # is not sliced, because tensor memory has no layout for half of it.
    (16, 100): (
        Tile(128, 256, 64, 8, 3, 64, copy_slice_n=64, more_stages=1, clocks=512),
        Tile(128, 128, 64, 8, 4, 64, copy_slice_n=64, clocks=300),
        Tile(64, 64, 64, 4, 5, 64, copy_slice_n=64, clocks=270),
        Tile(64, 32, 64, 4, 6, 32, clocks=250),
    ),
    # cp.async, 4 buffers x 32 KB of 163 KB; 1024 multiply-adds; four warps of 32 x 32 read 32 KB a step and write 16.
    (16, 80): (
        Tile(128, 128, 64, 8, 4, 128, copy_slice_n=64, clocks=1024),
        Tile(64, 64, 64, 4, 4, 64, clocks=450),
        Tile(32, 32, 64, 4, 5, 32, clocks=250),
    ),
    # 99 KB: 3 buffers x 32 KB; 512 multiply-adds.
    (16, 89): (
        Tile(128, 128, 64, 8, 3, 128, copy_slice_n=64, clocks=2048),
        Tile(64, 64, 64, 4, 4, 64, clocks=600),
        Tile(32, 32, 64, 4, 5, 32, clocks=250),
    ),
    # As 89, the tiles travelling by TMA, the C slice beside them.
    (16, 120): (
        Tile(128, 128, 64, 8, 2, 64, clocks=2048),
        Tile(64, 64, 64, 4, 3, 64, clocks=600),
        Tile(64, 32, 64, 4, 4, 32, clocks=350),
    ),
    # fp32 multiplies on CUDA cores, as torch does by default, 128 at a time: the tile is bounded by registers, on every
    # architecture. The small one loads its operands half again as often.
    **{
        (32, family): (
            Tile(64, 64, 32, 8, 3, 64, clocks=1024),
            Tile(32, 32, 32, 4, 3, 32, clocks=384),
        )
        for family in FAMILIES
    },
}
# ---- linear_8bit: family -> tiles ---------------------------------------------------------------------------------
# k = 128 is the group of a scale. A group's products and the sum of groups are two accumulators: half of linear's tile.
# Clocks as linear's, at twice its rate, and the sum of groups on 128 lanes, which the tensor cores wait for.
# Rows of one scale need no such sum: on 90 that leaves the registers of linear's own tile (on 100 it would spill).
LINEAR_8BIT_ROWS: dict[int, tuple[Tile, ...]] = {
    90: (Tile(128, 256, 128, 8, 3, 64, clocks=1024),),  # 3 buffers x 48 KB + a C slice
}
LINEAR_8BIT: dict[int, tuple[Tile, ...]] = {
    # int8 only; 4 buffers x 24 KB of 163 KB
    80: (
        Tile(64, 128, 128, 8, 4, 64, clocks=600),
        Tile(64, 64, 128, 4, 4, 64, clocks=450),
    ),
    # 3 buffers x 24 KB of 99 KB
    89: (
        Tile(64, 128, 128, 8, 3, 64, clocks=1100),
        Tile(64, 64, 128, 4, 4, 64, clocks=550),
    ),
    # 4 buffers x 32 KB of 227 KB, 2 x 64 accumulators a thread
    90: (
        Tile(128, 128, 128, 8, 4, 64, clocks=700),
        Tile(64, 128, 128, 4, 4, 64, clocks=450),
        Tile(64, 64, 128, 4, 5, 64, clocks=350),
    ),
    # as 90; a group's products come out of tensor memory
    100: (
        Tile(128, 128, 128, 8, 4, 64, clocks=600),
        Tile(64, 128, 128, 4, 4, 64, clocks=450),
        Tile(64, 64, 128, 4, 5, 64, clocks=350),
    ),
    # as 89, y's and the residual's slices beside them
    120: (
        Tile(64, 128, 128, 8, 3, 64, clocks=1100),
        Tile(64, 64, 128, 4, 3, 64, clocks=550),
    ),
}
# Tiles of one band of 8 tile rows run together, so that their weights are read from L2.
GROUP_M = 8


def linear_tile(bits: int, rows: int, columns: int, depth: int, hardware: Hardware) -> Tile:
    """The tile of an (M, N) product of this depth whose operands have this many bits."""
    return fastest(LINEAR[bits, hardware.family], rows, columns, depth, hardware)


def linear_8bit_tile(
    rows: int, columns: int, depth: int, hardware: Hardware, *, promoted: bool, whole_groups: bool
) -> Tile:
    """The same of 8-bit operands.

    Args:
        promoted: the sums of groups are added up beside the tensor cores.
        whole_groups: a tile has all 128 columns that share one scale of an 8-bit output.
    """
    tiles = LINEAR_8BIT[hardware.family]
    if not promoted:
        tiles = (*LINEAR_8BIT_ROWS.get(hardware.family, ()), *tiles)
    wide = tuple(tile for tile in tiles if tile.n >= 128)
    return fastest(wide if whole_groups else tiles, rows, columns, depth, hardware)


# ---- patch_embed: (bits of the weight, family) -> tile ---------------------------------------------------------
# 0.2 to 2.6% of a tower. k = 64 is 2, 4 or 4 lines of a patch of 32, 16 or 14 pixels.
PATCH_EMBED: dict[int, Tile] = {
    16: Tile(128, 128, 64, 8, 3),  # any family: 48 to 96 KB
    32: Tile(64, 64, 32, 4, 2),  # CUDA cores: bounded by registers
}


# ---- attention: (dense | packed, bits, family) -> tile -----------------------------------------------------------
@dataclass(frozen=True)
class AttentionTile:
    """queries x keys scores at a time, its warps and its pipeline.

    rest: the narrowest and the widest block that the keys past the last full one are read in.
    """

    queries: int
    keys: int
    rest: tuple[int, int]
    warps: int
    stages: int


ATTENTION: dict[tuple[str, int, int], AttentionTile] = {
    # 64 query rows are one wgmma, and 257 = 4 x 64 + 1 rows need five of them.
    **{("dense", 16, family): AttentionTile(64, 64, (16, 64), 4, 2) for family in FAMILIES},
    # Scores pass from tensor memory through registers: a 64-wide last block beside the loop's would need a stack.
    ("dense", 16, 100): AttentionTile(64, 64, (16, 32), 4, 2),
    # Texts have 10 tokens on average: 16 rows of one warp (mma.sync) leave the least padding.
    **{("packed", 16, family): AttentionTile(16, 32, (16, 16), 1, 2) for family in FAMILIES},
    # CUDA cores: bounded by registers.
    **{("dense", 32, family): AttentionTile(32, 32, (16, 32), 4, 2) for family in FAMILIES},
    **{("packed", 32, family): AttentionTile(16, 16, (16, 16), 4, 2) for family in FAMILIES},
}
# Head dims with a second part (72, 80, 88, 104) keep two accumulators: half the key block keeps them in registers.
# The second part is 16 columns or more: 32 rows of it are the fewest that still travel 8 bytes at a time.
ATTENTION_SPLIT_HEAD: dict[tuple[str, int, int], AttentionTile] = {
    **{("dense", 16, family): AttentionTile(64, 32, (32, 32), 4, 2) for family in (80, 89, 120)},
    ("dense", 16, 90): AttentionTile(64, 64, (32, 64), 4, 2),
    # With two buffers the assembler of Triton 3.6 spills.
    ("dense", 16, 100): AttentionTile(64, 32, (32, 32), 4, 3),
    **{("dense", 32, family): AttentionTile(16, 32, (32, 32), 4, 2) for family in FAMILIES},
}


def attention_tile(kind: str, bits: int, split_head: bool, hardware: Hardware) -> AttentionTile:
    """kind: "dense" or "packed". split_head: the head dim is not a power of two."""
    key = (kind, bits, hardware.family)
    return ATTENTION_SPLIT_HEAD.get(key, ATTENTION[key]) if split_head else ATTENTION[key]


# ---- similarity, log_sum_exp, top_k: bits -> tile ---------------------------------------------------------------
# Bound by reading the gallery: 64 queries share one pass. top_k keeps 64-bit keys beside the scores.
SCAN: dict[int, Tile] = {16: Tile(64, 128, 64, 8, 3), 32: Tile(32, 64, 32, 8, 2)}
TOP_K: dict[int, Tile] = {16: Tile(64, 64, 64, 8, 3), 32: Tile(32, 64, 16, 4, 2)}


# ---- one row a program: layer_norm ------------------------------------------------------------------------------
def row_warps(block: int) -> int:
    """Warps for one row of `block` elements: 32 a thread, so that 16-byte loads stay in flight without spills."""
    return min(8, max(1, block // 1024))


# ---- attention_pool: 32 keys of a head a step (Dh = 64, bf16) are 8 loads of 16 bytes a thread -----------------------
POOL_KEYS, POOL_WARPS = 32, 2


# ---- similarity's second step, bound by bandwidth: 4 fp32 logits a thread, 16 bytes at a time ------------------------
SOFTMAX_KEYS, SOFTMAX_WARPS = 1024, 8


# ---- linear_split: family -> tile, programs of it on one multiprocessor, clocks of a block of its depth -------------
@dataclass(frozen=True)
class Split:
    """A product whose depth is divided into so many parts."""

    tile: Tile
    parts: int


# 64 x 64: one wgmma high, light enough for two of its programs, which wait for memory most of the time.
SPLIT: dict[int, tuple[Tile, int]] = {
    80: (Tile(64, 64, 64, 4, 4), 2),  # 4 buffers x 16 KB of 163 KB
    89: (Tile(64, 64, 64, 4, 3), 1),  # 3 buffers x 16 KB of 99 KB
    90: (Tile(64, 64, 64, 4, 6), 2),  # 6 buffers x 16 KB of 227 KB
    100: (Tile(64, 64, 64, 4, 6), 2),
    120: (Tile(64, 64, 64, 4, 3), 1),  # as 89
}
# The second kernel, its launch and the way of the parts through L2 last as long as so many blocks of the depth: 2 us at
# 280 clocks a block.
SPLIT_COSTS = 12
MOST_PARTS = 8


def linear_split(
    bits: int, rows: int, columns: int, depth: int, hardware: Hardware
) -> Split | None:
    """How to divide the depth of a product; None where one kernel is as fast."""
    tile, resident = SPLIT[hardware.family]
    tiles, blocks = triton.cdiv(rows, tile.m) * triton.cdiv(columns, tile.n), depth // tile.k
    parts = min(MOST_PARTS, resident * hardware.multiprocessors // max(1, tiles))
    if bits != 16 or parts < 2 or blocks - blocks / parts <= SPLIT_COSTS:
        return None
    return Split(tile, parts)
