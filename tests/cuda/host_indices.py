"""Index arithmetic of csrc/cuda, each piece by itself, called with tensors."""

from __future__ import annotations

import torch

from tests.cuda.host_library import Change, address, call, load

INT32, INT64, FP16 = torch.int32, torch.int64, torch.float16


def chunk_places(chunks: int, row: int) -> list[int]:
    """Where each chunk of a row stands."""
    return [load("indices").chunk_place(chunks, row, chunk) for chunk in range(chunks)]


def chunk_byte(chunks: int, row: int, chunk: int) -> int:
    return load("indices").chunk_byte(chunks, row, chunk)


def fragment_of_rows(rows: torch.Tensor, *, transposed: bool) -> torch.Tensor:
    """(8, 8 chunks) 16-bit elements -> (32, chunks, 2), the two elements of each word."""
    chunks = rows.shape[1] // 8
    words = torch.full((32, chunks, 2), -1, dtype=torch.int16)
    call(
        *(load("indices"), "fragment_of_rows", address(rows), chunks, int(transposed)),
        address(words),
    )
    return words


def fragment_of_queries(rows: torch.Tensor, first_row: int) -> torch.Tensor:
    """(count, 8 chunks) 16-bit elements -> (32, chunks, 2 rows, 2)."""
    count, chunks = len(rows), rows.shape[1] // 8
    words = torch.full((32, chunks, 2, 2), -1, dtype=torch.int16)
    call(
        *(load("indices"), "fragment_of_queries", address(rows), count, chunks, first_row),
        address(words),
    )
    return words


def rows_of_fragment(
    sums: torch.Tensor, totals: torch.Tensor, count: int, first_row: int
) -> torch.Tensor:
    """(32, chunks, 4) sums and (32, 2) totals -> (count, 8 chunks) float16; rows of others are NaN."""
    chunks = sums.shape[1]
    out = torch.full((count, 8 * chunks), torch.nan, dtype=FP16)
    call(
        *(load("indices"), "rows_of_fragment", address(sums), address(totals), count, chunks),
        *(first_row, address(out)),
    )
    return out


def exchange_quads(words: torch.Tensor) -> torch.Tensor:
    """(32, 4) int32, exchanged across the lanes of each quad."""
    out = words.clone()
    call(load("indices"), "exchange_quads", address(out))
    return out


def mask(column: int, visible: tuple[int, int]) -> torch.Tensor:
    """(32, 4): zeros, and -inf where a lane's score is masked."""
    scores, limits = torch.zeros(32, 4), torch.tensor(visible, dtype=INT32)
    call(load("indices"), "mask", column, address(limits), address(scores))
    return scores


def _two(name: str, *arguments: int) -> tuple[int, int]:
    out = torch.full((2,), -1, dtype=INT32)
    load("indices")[name](*arguments, address(out))
    first, second = out.tolist()
    return first, second


def rounds(rows: int, warps: int, block: int, blocks: int) -> tuple[int, int]:
    """The first round of row tiles of a block, and the one after its last."""
    return _two("rounds", rows, warps, block, blocks)


def slice_tiles(gallery_rows: int, slices: int, index: int) -> tuple[int, int]:
    """The first tile of a slice, and how many it has."""
    return _two("slice_tiles", gallery_rows, slices, index)


def place_in_product(thread: int) -> tuple[int, int]:
    """First row and column of a thread's elements in the 128 x 128 tile."""
    return _two("place_in_product", thread)


def dense_block(block: int, heads: int, row_blocks: int) -> tuple[int, ...]:
    """Sequence, head and row block that a block serves."""
    unit = torch.full((3,), -1, dtype=INT32)
    load("indices").dense_block(block, heads, row_blocks, address(unit))
    return tuple(unit.tolist())


def keep_best(
    keys: list[int], count: int, k: int, changes: tuple[Change, ...] = ()
) -> tuple[list[int], int]:
    """A row of candidates after sorting its first `count`, and its threshold."""
    row, threshold = torch.tensor(keys, dtype=INT64), torch.zeros(1, dtype=INT64)
    call(
        *(load("indices", changes), "keep", address(row), len(keys), count, k),
        address(threshold),
    )
    return row.tolist(), int(threshold)


def merge(
    candidates: torch.Tensor, queries: int, k: int, changes: tuple[Change, ...] = ()
) -> tuple[torch.Tensor, torch.Tensor]:
    """(slices, 128, capacity) keys -> scores and indices (queries, k)."""
    slices, _, capacity = candidates.shape
    scores = torch.full((queries, k), torch.nan)
    indices = torch.full((queries, k), -1, dtype=INT64)
    call(
        *(load("indices", changes), "merge", address(candidates), queries, slices, capacity, k),
        *(address(scores), address(indices)),
    )
    return scores, indices
