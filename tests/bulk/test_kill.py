"""kill -9 at random moments, a full disk: what is there is valid, and a clean run ends with the usual bits."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from clipfast.bulk import read
from tests.bulk.conftest import contents, draw


def command(folder, output, model, shard_size):
    return [
        *(sys.executable, "-m", "clipfast.cli", "embed", str(folder), "-o", str(output)),
        *("--model", model),
        *("--shard-size", str(shard_size), "--json"),
    ]


def run(arguments):
    started = time.monotonic()
    finished = subprocess.run(arguments, capture_output=True, text=True, check=False)
    return finished, time.monotonic() - started


def check_markers(output):
    """Every shard that is marked as done has its files, whole and aligned."""
    done = sorted((output / "done").glob("*.json")) if (output / "done").is_dir() else []
    for path in done:
        marker = json.loads(path.read_text())
        for name, written in marker["files"].items():
            assert (output / name).stat().st_size == written["bytes"]
        rows = np.load(output / f"img_emb/img_emb_{marker['shard']:05d}.npy")
        assert len(rows) == marker["rows"]
    return len(done)


@pytest.mark.parametrize(
    ("images", "shard_size", "kills", "model"),
    [(600, 50, 3, None), pytest.param(20_000, 250, 30, "demo", marks=pytest.mark.slow)],
)
@pytest.mark.timeout(1800)
def test_killed_at_random_moments(images, shard_size, kills, model, model_folder, tmp_path):
    model = model or model_folder
    folder = draw(tmp_path / "images", images, side=40)
    whole = tmp_path / "whole"
    finished, seconds = run(command(folder, whole, model, shard_size))
    assert finished.returncode == 0, finished.stderr
    rng = random.Random(3)
    output = tmp_path / "killed"
    survived, progress = 0, []
    for _ in range(kills):
        process = subprocess.Popen(
            command(folder, output, model, shard_size),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        process.stderr.readline()  # the inputs are listed; before that there is nothing to break
        time.sleep(rng.uniform(0, min(seconds, 2 * seconds / kills + 1)))
        survived += process.poll() is not None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        progress.append(check_markers(output))
    finished, _ = run(command(folder, output, model, shard_size))
    assert finished.returncode == 0, finished.stderr
    summary = json.loads(finished.stdout)
    print(
        f"{kills} kills, {survived} too late; shards done after each: {progress}; last run: {summary}"
    )
    assert kills - survived >= 1
    assert contents(output) == contents(whole)
    assert len(read(output, verify=True)) == images


def mount(folder, size):
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder],
        capture_output=True,
        check=False,
    )
    return mounted.returncode == 0


@pytest.mark.parametrize("form", ["clip-retrieval", "npy"])
def test_a_full_disk_is_one_sentence_and_resumable(form, model_folder, tmp_path):
    folder = draw(tmp_path / "images", 120, side=40)
    disk = tmp_path / "disk"
    if os.geteuid() != 0 or not mount(disk, "256k"):
        pytest.skip("only root may mount a small tmpfs")
    try:
        ballast = disk / "ballast"
        output = disk / "out"
        arguments = [*command(folder, output, model_folder, 10), "--format", form]
        ballast.write_bytes(bytes(190_000))
        finished, _ = run(arguments)
        assert finished.returncode == 1, finished.stderr
        said = [line for line in finished.stderr.splitlines() if "No space left" in line]
        assert len(said) == 1
        assert "Traceback" not in finished.stderr
        assert not [path for path in disk.rglob("*") if path.name.endswith((".tmp", ".lock"))]
        done = check_markers(output)
        assert 0 < done < 12
        assert (
            len(list((output / "img_emb").iterdir())) == done
        )  # nothing half of the one that failed
        ballast.unlink()
        finished, _ = run(arguments)
        assert finished.returncode == 0, finished.stderr
        assert json.loads(finished.stdout)["skipped_items"] == 10 * done
        finished, _ = run(
            [*command(folder, tmp_path / "whole", model_folder, 10), "--format", form]
        )
        assert contents(output) == contents(tmp_path / "whole")
    finally:
        subprocess.run(["umount", disk], check=True)
