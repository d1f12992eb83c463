"""Memory depends on batch, shard and image sizes, not on how much there is to do."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from tests.bulk.conftest import draw

MEGABYTE = 1 << 20


def sampled_run(images, output, model_folder):
    """The summary of a job, and (items on disk, resident bytes) every half second while it ran."""
    command = [
        *(sys.executable, "-m", "clipfast.cli", "embed", str(images), "-o", str(output)),
        *("--model", model_folder, "--shard-size", "2000", "--batch-size", "64", "--json"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    watched, samples = psutil.Process(process.pid), []
    while process.poll() is None:
        done = output / "done"
        items = 2000 * len(list(done.iterdir())) if done.is_dir() else 0
        try:
            samples.append((items, watched.memory_info().rss))
        except psutil.NoSuchProcess:
            break
        time.sleep(0.5)
    printed, _ = process.communicate()
    assert process.returncode == 0
    return json.loads(printed), np.array(samples)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_is_flat_and_independent_of_the_jobs_size(model_folder, tmp_path):
    folder = draw(tmp_path / "images", 1000, side=40)
    paths = "".join(f"{path}\n" for path in sorted(folder.iterdir()))
    peaks = {}
    for items in (20_000, 200_000):
        listed = tmp_path / f"{items}.txt"
        listed.write_text(paths * (items // 1000))
        summary, samples = sampled_run(listed, tmp_path / f"out{items}", model_folder)
        assert summary["rows"] == items
        peaks[items] = summary["peak_bytes"]
    steady = samples[samples[:, 0] >= 20_000]
    slope, start = np.polyfit(steady[:, 0], steady[:, 1], 1)
    growth = slope * (200_000 - 20_000)
    noise = np.std(steady[:, 1] - (slope * steady[:, 0] + start))
    print(
        f"peaks {[round(peak / MEGABYTE) for peak in peaks.values()]} MiB at {list(peaks)} items; over the last 180,000"
        f" items the line rises {growth / MEGABYTE:.2f} MiB, samples scatter by {noise / MEGABYTE:.2f} MiB"
    )
    assert growth < max(2 * noise, 4 * MEGABYTE)
    assert peaks[200_000] - peaks[20_000] < 16 * MEGABYTE
