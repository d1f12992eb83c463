"""Bad items among good ones: each gets its code, and no bit of the good rows changes."""

from __future__ import annotations

import os
import random
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipfast.bulk import Settings, embed
from tests.bulk.conftest import draw
from tests.bulk.poison import KINDS, poison


@pytest.mark.parametrize(
    ("good", "bad"),
    [(60, 20), pytest.param(900, 100, marks=pytest.mark.slow)],
)
def test_good_rows_keep_their_bits_and_bad_ones_get_their_codes(good, bad, model, tmp_path):
    count = good + bad
    clean = draw(tmp_path / "clean", count)
    poisoned = tmp_path / "poisoned"
    shutil.copytree(clean, poisoned)
    places = sorted(random.Random(1).sample(range(count), bad))
    expected = {}
    for number, place in enumerate(places):
        path = poisoned / f"{place:06d}.jpg"
        path.unlink()
        if number % (len(KINDS) + 4) < len(KINDS):
            data, code = poison(number)
            path.write_bytes(data)
        else:  # no data at all
            code = "unreadable_file"
            if number % 4 == 0:
                os.mkfifo(path)
            elif number % 4 == 1:
                path.symlink_to("absent")
            elif number % 4 == 2:
                path.symlink_to(path)
            else:
                path.symlink_to("/dev/zero")
        expected[place] = code
    settings = Settings(batch_size=32, shard_size=300)
    embed(model, [clean], tmp_path / "a", settings)
    summary = embed(model, [poisoned], tmp_path / "b", settings)
    assert summary.rows == good
    assert sum(summary.errors.values()) == bad
    found = {}
    for number in range(-(-count // 300)):
        rows = np.load(tmp_path / f"a/img_emb/img_emb_{number:05d}.npy")
        kept = np.load(tmp_path / f"b/img_emb/img_emb_{number:05d}.npy")
        table = pq.read_table(tmp_path / f"b/metadata/metadata_{number:05d}.parquet").to_pydict()
        assert len(table["item"]) == len(kept)
        places_kept = [item - 300 * number for item in table["item"]]
        np.testing.assert_array_equal(rows[places_kept].view(np.uint16), kept.view(np.uint16))
        names = [str(poisoned / f"{item:06d}.jpg") for item in table["item"]]
        assert table["image_path"] == names
        errors = pq.read_table(tmp_path / f"b/errors/errors_{number:05d}.parquet").to_pydict()
        assert all(errors["message"])
        found |= dict(zip(errors["item"], errors["code"], strict=True))
    assert found == expected
