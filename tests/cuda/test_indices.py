"""Index arithmetic of the CUDA kernels: swizzle, fragments, masks, schedules, insert and merge, resize taps."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
import torch

from tests.cuda import host_indices as indices
from tests.cuda.host_attention import plan
from tests.cuda.host_library import address, load
from tests.cuda.host_resize import side_taps

CHUNKS = (4, 8, 9, 10, 11, 13)  # 16-byte chunks of a row: slices of the product, and head dims
LANES = [(lane, lane // 4, lane % 4) for lane in range(32)]


@pytest.mark.parametrize("chunks", CHUNKS)
def test_the_swizzle_is_its_own_inverse(chunks):
    for row in range(40):
        places = indices.chunk_places(chunks, row)
        assert sorted(places) == list(range(chunks))
        assert [places[place] for place in places] == list(range(chunks))


@pytest.mark.parametrize("chunks", CHUNKS)
def test_eight_rows_of_a_matrix_lie_in_eight_banks(chunks):
    taken = set()
    for first in range(0, 32, 8):
        for chunk in range(chunks):
            at = [indices.chunk_byte(chunks, first + row, chunk) for row in range(8)]
            assert len({byte // 16 % 8 for byte in at}) == 8
            taken.update(at)
    assert taken == set(range(0, 32 * chunks * 16, 16))


@pytest.mark.parametrize("chunks", CHUNKS)
def test_fragments_of_keys_and_values(chunks):
    """PTX's map of B: column g at k = 2t and 2t + 1; values are read transposed."""
    rows = torch.arange(8 * 8 * chunks, dtype=torch.int16).reshape(8, -1)
    straight = indices.fragment_of_rows(rows, transposed=False)
    transposed = indices.fragment_of_rows(rows, transposed=True)
    for lane, g, t in LANES:
        for c in range(chunks):
            assert straight[lane, c].tolist() == rows[g, 8 * c + 2 * t : 8 * c + 2 * t + 2].tolist()
            assert transposed[lane, c].tolist() == rows[2 * t : 2 * t + 2, 8 * c + g].tolist()


@pytest.mark.parametrize("chunks", CHUNKS)
def test_fragments_of_queries(chunks):
    """PTX's map of A: rows g and g + 8 at k = 2t and 2t + 1; zeros beyond the sequence."""
    rows = torch.arange(1, 1 + 21 * 8 * chunks, dtype=torch.int16).reshape(21, -1)
    words = indices.fragment_of_queries(rows, 9)
    padded = torch.cat([rows, torch.zeros(8, 8 * chunks, dtype=torch.int16)])
    for lane, g, t in LANES:
        for half in range(2):
            row = padded[9 + g + 8 * half].reshape(chunks, 4, 2)
            assert torch.equal(words[lane, :, half], row[:, t])


@pytest.mark.parametrize("chunks", CHUNKS)
def test_rows_leave_the_fragments_of_c(chunks):
    """PTX's map of C: rows g and g + 8, columns 2t and 2t + 1; rows beyond the sequence stay as they are."""
    expected = torch.arange(16 * 8 * chunks, dtype=torch.float32).reshape(16, -1) / 8
    sums = torch.empty(32, chunks, 4)
    for lane, g, t in LANES:
        for e in range(4):
            sums[lane, :, e] = expected[g + 8 * (e // 2), 2 * t + e % 2 :: 8]
    totals = torch.full((32, 2), 0.5)
    out = indices.rows_of_fragment(sums, totals, 18, 5)
    assert torch.equal(out[5:], (2 * expected[:13]).half())
    assert out[:5].isnan().all()


def test_the_exchange_of_a_quad_is_a_transposition_and_its_own_inverse():
    words = torch.arange(128, dtype=torch.int32).reshape(32, 4)
    once = indices.exchange_quads(words)
    assert torch.equal(once, words.reshape(8, 4, 4).transpose(1, 2).reshape(32, 4))
    assert torch.equal(indices.exchange_quads(once), words)


@pytest.mark.parametrize("visible", [(0, 0), (50, 50), (52, 55), (48, 49), (56, 90), (-3, 51)])
def test_masks(visible):
    scores = indices.mask(48, visible)
    for lane, _, t in LANES:
        for e in range(4):
            hidden = 48 + 2 * t + e % 2 >= visible[e // 2]
            assert math.isinf(scores[lane, e]) == hidden


def test_threads_of_a_product_own_every_element_once():
    owned = []
    for thread in range(256):
        row, column = indices.place_in_product(thread)
        owned += [
            (row + 16 * i + 8 * (e // 2), column + 8 * j + e % 2)
            for i in range(4)
            for j in range(4)
            for e in range(4)
        ]
    assert sorted(owned) == [(row, column) for row in range(128) for column in range(128)]


@pytest.mark.parametrize("head_dim", [64, 72, 80, 88, 104])
@pytest.mark.parametrize("architecture", [80, 89, 90, 100, 120])
def test_blocks_and_rounds_cover_every_row_tile_once(architecture, head_dim):
    for length in (1, 16, 17, 50, 77, 197, 257, 300, 577, 730):
        for units in (1, 12, 3000):
            made = plan(architecture, units, length, 1, head_dim)
            rows, blocks = length - made.first_row, made.row_blocks
            covered = [indices.rounds(rows, made.warps, block, blocks) for block in range(blocks)]
            tiles = -(-rows // 16)
            assert covered[0][0] == 0
            assert covered[-1][1] == -(-tiles // made.warps)
            for (_, end_of_one), (start_of_next, _) in pairwise(covered):
                assert end_of_one == start_of_next


def test_blocks_of_a_grid_serve_every_unit_once():
    sequences, heads, row_blocks = 3, 5, 2
    blocks = range(sequences * heads * row_blocks)
    units = [indices.dense_block(block, heads, row_blocks) for block in blocks]
    assert sorted(units) == [
        (sequence, head, part)
        for sequence in range(sequences)
        for head in range(heads)
        for part in range(row_blocks)
    ]
    assert [head for _, head, _ in units[:heads]] == list(range(heads))


@pytest.mark.parametrize(
    ("rows", "slices"),
    [(1, 1), (128, 1), (129, 2), (1000, 7), (1000, 8), (10_000_000, 264), (2**31 - 256, 296)],
)
def test_slices_cover_every_tile_of_the_gallery_once(rows, slices):
    tiles, begin = -(-rows // 128), 0
    for index in range(slices):
        first, count = indices.slice_tiles(rows, slices, index)
        assert first == begin
        assert count >= 1
        assert abs(count - tiles / slices) < 1
        begin += count
    assert begin == tiles


KEEP = ("cuda/top_k_loop.h", "if (place < k) m.store", "if (place + 1 < k) m.store")
MERGE = ("cuda/top_k_loop.h", "if (head > best) {", "if (best == kNoKey) {")


def insert(count: int, k: int, capacity: int, changes=()) -> None:
    generator = random.Random(count * 1000 + k)
    keys = generator.sample(range(1, 2**62), capacity)
    row, threshold = indices.keep_best(keys, count, k, changes)
    best = sorted(keys[:count], reverse=True)[:k]
    assert row[:k] == best + [0] * (k - len(best))
    assert threshold == (best[k - 1] if count >= k else 0)


@pytest.mark.parametrize(
    ("count", "k", "capacity"),
    [
        *((0, 1, 32), (1, 1, 32), (5, 10, 32), (32, 16, 32), (47, 20, 64), (128, 64, 128)),
        *((256, 128, 256), (200, 128, 256), (129, 128, 256)),
    ],
)
def test_insert_keeps_the_best_sorted_and_the_threshold_is_the_last(count, k, capacity):
    insert(count, k, capacity)


def merged(slices: int, k: int, changes=()) -> None:
    """Each slice's list is sorted and filled up with no key; what merges is what sorting them all gives."""
    generator = torch.Generator().manual_seed(slices)
    queries, capacity = 3, 32
    scores = torch.randn(queries, slices * k, generator=generator)
    scores[:, ::3] = scores[:, :1]  # ties, which go to the lower row
    rows = torch.stack([torch.randperm(1 << 20, generator=generator)[: slices * k]] * queries)
    keys = torch.zeros(queries, slices * k, dtype=torch.int64)
    narrow = rows.int()
    back, back_rows = torch.zeros_like(scores), torch.zeros_like(narrow)
    load("cosine").make_keys(
        *(address(scores), address(narrow), keys.numel(), address(keys)),
        *(address(back), address(back_rows)),
    )
    candidates = torch.zeros(slices, 128, capacity, dtype=torch.int64)
    for query in range(queries):
        lists = [[key % 2**64 for key in part] for part in keys[query].reshape(slices, k).tolist()]
        for index, keys_of_slice in enumerate(lists):
            held = sorted(keys_of_slice, reverse=True)[: k - index % 2]
            signed = [key - 2**64 if key >= 2**63 else key for key in held]
            candidates[index, query, : len(signed)] = torch.tensor(signed)
    got_scores, got_rows = indices.merge(candidates, queries, k, changes)
    for query in range(queries):
        flat = sorted(
            (key % 2**64 for key in candidates[:, query].flatten().tolist()), reverse=True
        )
        assert got_rows[query].tolist() == [0xFFFFFFFF - key % 2**32 for key in flat[:k]]
        by_row = dict(zip(rows[query].tolist(), scores[query].tolist(), strict=True))
        assert got_scores[query].tolist() == [by_row[row] for row in got_rows[query].tolist()]


@pytest.mark.parametrize("slices", [1, 2, 31, 33, 264])
def test_merge_takes_the_best_of_all_slices(slices):
    merged(slices, 10)


@pytest.mark.slow
def test_seeded_faults_in_insert_and_merge_are_seen():
    with pytest.raises(AssertionError):
        insert(47, 20, 64, (KEEP,))
    with pytest.raises(AssertionError):
        merged(264, 10, (MERGE,))


def bicubic_taps(side: int, resized: int, position: int) -> tuple[int, list[int]]:
    """Pillow's coefficients in float64, written from the formula."""
    scale = side / resized
    stretch = max(scale, 1.0)
    center = (position + 0.5) * scale
    first = max(int(center - 2 * stretch + 0.5), 0)
    end = min(int(center + 2 * stretch + 0.5), side)
    weights = []
    for pixel in range(first, end):
        x = abs((pixel - center + 0.5) / stretch)
        inner = (1.5 * x - 2.5) * x * x + 1
        outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
        weights.append(inner if x < 1 else outer if x < 2 else 0.0)
    total = sum(weights)
    return first, [round(weight / total * 2**22) for weight in weights]


@pytest.mark.parametrize(("side", "other"), [(500, 375), (375, 500), (225, 223), (3000, 4000)])
def test_resize_taps_are_the_formulas(side, other):
    size = 64
    resized = size if side <= other else int(size * side / other)
    start = round((resized - size) / 2)
    for output, (first, weights) in enumerate(side_taps(side, other, size)):
        expected_first, expected = bicubic_taps(side, resized, start + output)
        assert first == expected_first
        assert len(weights) == len(expected)
        # One in the last of 22 bits, where the order of the formula's products shows.
        assert max(abs(a - b) for a, b in zip(weights, expected, strict=True)) <= 1
