"""The tiles as data: every architecture has them, they fit, and one entry sums every row in the same order."""

from __future__ import annotations

import time
from itertools import islice

import pytest
import torch

from benchmarks.gpu.context import Context
from benchmarks.tune import attention_candidates, linear_candidates, timed
from clipfast.kernels import configs
from clipfast.kernels.configs import attention_tile, linear_8bit_tile, linear_tile
from clipfast.kernels.dependent_launch import dependent_launch
from clipfast.kernels.hardware import FAMILIES, INTERPRETER, Hardware, hardware_of


@pytest.mark.parametrize(
    ("architecture", "family"),
    [
        (80, 80),
        (86, 89),
        (87, 89),
        (89, 89),
        (90, 90),
        (100, 100),
        (103, 100),
        (120, 120),
        (121, 120),
    ],
)
def test_every_architecture_belongs_to_a_family(architecture: int, family: int) -> None:
    assert Hardware(architecture, 1).family == family


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bits", [16, 32])
def test_every_family_has_tiles(bits: int, family: int) -> None:
    hardware = Hardware(family, 100)
    assert linear_tile(bits, 1, 1, 1, hardware) == configs.LINEAR[bits, family][-1]
    for kind in ("dense", "packed"):
        for split_head in (False, True):
            assert attention_tile(kind, bits, split_head, hardware).queries >= 16


def test_an_entry_sums_rows_in_one_order_and_offers_smaller_tiles_last() -> None:
    for tiles in (*configs.LINEAR.values(), *configs.LINEAR_8BIT.values()):
        assert len({tile.k for tile in tiles}) == 1
        areas = [tile.m * tile.n for tile in tiles]
        assert areas == sorted(areas, reverse=True)
        assert all(tile.n % tile.slice_n == tile.n % tile.copy_slice_n == 0 for tile in tiles)
        assert sorted(tiles, key=lambda tile: tile.clocks, reverse=True) == list(tiles)


def layer_tiles(rows: int, width: int) -> list[tuple[int, int]]:
    """The tiles of a block's four products (qkv, out_proj, c_fc, c_proj) on an H100."""
    hardware = Hardware(90, 132)
    shapes = ((3 * width, width), (width, width), (4 * width, width), (width, 4 * width))
    tiles = [linear_tile(16, rows, columns, depth, hardware) for columns, depth in shapes]
    return [(tile.m, tile.n) for tile in tiles]


@pytest.mark.parametrize(
    ("rows", "width", "tiles"),
    [
        (257, 1024, [(64, 64), (64, 64), (128, 128), (64, 64)]),
        (50, 768, [(64, 32)] * 4),
        (8 * 50, 768, [(64, 64), (64, 64), (128, 128), (64, 64)]),
        (56 * 50, 768, [(128, 128), (128, 128), (128, 256), (128, 128)]),
        (256 * 50, 768, [(128, 256), (128, 128), (128, 256), (128, 128)]),
        (256 * 257, 1024, [(128, 256)] * 4),
    ],
    ids=["L-14 x 1", "B-32 x 1", "B-32 x 8", "B-32 x 56", "B-32 x 256", "L-14 x 256"],
)
def test_the_work_decides_the_tile(rows: int, width: int, tiles: list[tuple[int, int]]) -> None:
    assert layer_tiles(rows, width) == tiles


def test_one_wave_of_larger_tiles_beats_two_of_smaller_ones() -> None:
    """c_proj of one image: 160 tiles of 64 x 32 are two waves on 132 multiprocessors, 80 of 64 x 64 are one."""
    tile = linear_tile(16, 257, 1024, 4096, Hardware(90, 132))
    assert (tile.m, tile.n) == (64, 64)
    tile = linear_tile(16, 257, 1024, 4096, Hardware(90, 160))
    assert (tile.m, tile.n) == (64, 32)


@pytest.mark.parametrize("family", FAMILIES)
def test_8bit_tiles_are_small_for_few_rows_and_hold_whole_groups_where_asked(family: int) -> None:
    hardware = Hardware(family, 132)
    few = [
        linear_8bit_tile(50, 768, 768, hardware, promoted=True, whole_groups=whole)
        for whole in (False, True)
    ]
    assert [tile.n for tile in few] == [64, 128]
    many = linear_8bit_tile(65_792, 4096, 1024, hardware, promoted=True, whole_groups=False)
    assert many == configs.LINEAR_8BIT[family][0]


def test_8bit_rows_of_one_scale_need_no_second_accumulator() -> None:
    hardware = Hardware(90, 132)
    tiles = [
        linear_8bit_tile(65_792, 4096, 1024, hardware, promoted=promoted, whole_groups=True)
        for promoted in (False, True)
    ]
    assert [(tile.m, tile.n) for tile in tiles] == [(128, 256), (128, 128)]


@pytest.mark.parametrize("architecture", [80, 86, 89, 90, 100, 120])
def test_kernels_start_under_the_one_before_from_90_on(architecture: int) -> None:
    hardware = Hardware(architecture, 100)
    early = dependent_launch(hardware, torch.device("cuda"))
    assert early == ({"PDL": True, "launch_pdl": True} if architecture >= 90 else {"PDL": False})
    assert dependent_launch(hardware, torch.device("cpu")) == {"PDL": False}


def test_tensors_on_the_cpu_have_the_interpreters_hardware() -> None:
    assert hardware_of(torch.device("cpu")) == INTERPRETER


def test_tuning_tries_tiles_and_leaves_the_tables_alone(device: torch.device) -> None:
    context = Context(device, time.monotonic() + 60)
    before = dict(configs.LINEAR), dict(configs.ATTENTION)
    dense = islice(attention_candidates(1, 20, 1, 32, context), 3)
    measured, refused = timed(dense, context)
    assert [name.split("(")[0] for _, name in measured] == ["AttentionTile"] * 3
    assert refused == []
    products = list(linear_candidates(8, 8, 32, context))
    assert len({name for name, _, _ in products}) == len(products) > 50
    measured, _ = timed(iter(products[:2]), context)
    assert len(measured) == 2
    assert before == (configs.LINEAR, configs.ATTENTION)
