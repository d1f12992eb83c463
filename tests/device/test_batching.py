"""Batches that fill a device: the published table of waves, cuts that lose nothing, buckets that pad little."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipfast.device.batching import Batching, Product, efficiency, time_of, token_budget

H100 = 132


def products(width: int) -> tuple[Product, ...]:
    return (
        Product(3 * width, width),
        Product(width, width),
        Product(4 * width, width),
        Product(width, 4 * width),
    )


def batching(width: int, tokens: int, most: int = 256) -> Batching:
    return Batching(products(width), tokens, H100, most)


TOWERS = {
    "B/32": (768, 50),
    "B/16": (768, 197),
    "L/14": (1024, 257),
    "L/14@336": (1024, 577),
    "H/14": (1280, 257),
}
# Computed apart from this code, from the same five tiles on 132 multiprocessors: batch -> efficiency.
PUBLISHED = {
    "B/32": {1: 0.03, 8: 0.21, 16: 0.41, 32: 0.63, 64: 0.78, 128: 0.82, 256: 0.87, 56: 0.93, 225: 0.999},
    "B/16": {1: 0.11, 8: 0.62, 32: 0.81, 64: 0.975, 256: 0.995, 14: 0.92, 57: 0.997},
    "L/14": {1: 0.18, 8: 0.86, 16: 0.97, 128: 0.97, 256: 0.98, 49: 0.99},
    "L/14@336": {1: 0.39, 8: 0.79, 32: 0.92, 7: 0.956, 29: 0.99},
    "H/14": {1: 0.23, 8: 0.84, 32: 0.91, 6: 0.86, 25: 0.95, 39: 0.99},
}  # fmt: skip


@pytest.mark.parametrize("tower", TOWERS)
def test_efficiencies_are_the_published_ones(tower: str) -> None:
    width, tokens = TOWERS[tower]
    for batch, expected in PUBLISHED[tower].items():
        got = efficiency(batch * tokens, products(width), H100)
        print(f"{tower} {batch}: {got:.3f}, published {expected}")
        assert got == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize("tower", TOWERS)
def test_the_size_of_a_batch_is_as_good_as_any(tower: str) -> None:
    width, tokens = TOWERS[tower]
    chosen = batching(width, tokens)
    best = max(efficiency(size * tokens, products(width), H100) for size in range(1, 257))
    assert efficiency(chosen.size * tokens, products(width), H100) >= 0.985 * best
    powers = [efficiency(size * tokens, products(width), H100) for size in (32, 64, 128)]
    assert efficiency(chosen.size * tokens, products(width), H100) > max(powers)


def test_other_devices_have_other_sizes() -> None:
    sizes = {units: Batching(products(768), 50, units, 256).size for units in (40, 108, 132, 148)}
    assert len(set(sizes.values())) > 1


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(TOWERS)), st.integers(1, 2000), st.integers(1, 300))
def test_pieces_are_the_whole_and_keep_the_limit(tower: str, count: int, limit: int) -> None:
    pieces = batching(*TOWERS[tower]).pieces(count, limit)
    assert sum(pieces) == count
    assert min(pieces) >= 1
    assert max(pieces) <= min(limit, 256)


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("count", [64, 130, 256, 300, 517])
def test_a_cut_is_never_slower_than_full_batches(tower: str, count: int) -> None:
    width, tokens = TOWERS[tower]
    weights = sum(product.columns * product.depth for product in products(width))

    def cost(pieces: list[int]) -> float:
        computed = sum(time_of(piece * tokens, products(width), H100) for piece in pieces)
        return computed + len(pieces) * weights * 263 / H100

    full = [256] * (count // 256) + ([count % 256] if count % 256 else [])
    assert cost(batching(width, tokens).pieces(count)) <= cost(full)


@pytest.mark.parametrize("tower", TOWERS)
def test_buckets_hold_every_size_and_pad_little(tower: str) -> None:
    width, tokens = TOWERS[tower]
    chosen = batching(width, tokens)
    weights = sum(product.columns * product.depth for product in products(width))

    def cost(size: int) -> float:
        return time_of(size * tokens, products(width), H100) + weights * 263 / H100

    for size in range(1, 257):
        assert chosen.bucket(size) >= size
        assert cost(chosen.bucket(size)) <= 1.125 * cost(size)
    assert {1, 64, 256, chosen.size} <= set(chosen.buckets)
    assert len(chosen.buckets) < 50


def test_without_products_batches_are_full() -> None:
    plain = Batching((), 1, H100, 64)
    assert plain.size == 64
    assert plain.pieces(150) == [64, 64, 22]
    assert plain.bucket(60) == 64
    assert plain.bucket(64) == 64


def test_one_at_a_time() -> None:
    single = batching(768, 50, most=1)
    assert single.size == 1
    assert single.pieces(3) == [1, 1, 1]
    assert single.buckets == (1,)


@pytest.mark.parametrize("width", [512, 768, 1024])
def test_a_token_budget_fills_its_waves(width: int) -> None:
    rows = token_budget(products(width), H100, 65536)
    assert 32768 <= rows <= 65536
    assert rows % 128 == 0
    assert efficiency(rows, products(width), H100) >= efficiency(65536, products(width), H100)
    assert efficiency(rows, products(width), H100) > 0.99
