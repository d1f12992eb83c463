"""kill -9 at random moments, a full disk: what is there is valid, and a clean run ends with the usual bits."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import clipfast
from clipfast.bulk import Settings, embed, read
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


def job(folder, output, model_folder, shard_size):
    embed(
        clipfast.load(model_folder, precision="fp32"),
        [folder],
        output,
        Settings(batch_size=16, shard_size=shard_size),
    )


def process_at_work(output):
    """The process that holds the output's lock."""
    try:
        return json.loads((output / "locks/0-of-1.lock").read_text())["pid"]
    except (FileNotFoundError, ValueError):
        return None


def is_running(process):
    return (process.poll() if isinstance(process, subprocess.Popen) else process.exitcode) is None


def kill_at_random(start, seconds, kills, output):
    """Shards done after each kill, and how many jobs had ended before it. start: begins the job."""
    rng, done, late = random.Random(3), [], 0
    for _ in range(kills):
        process = start()
        while process_at_work(output) != process.pid and is_running(process):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, seconds))
        process.kill()
        process.wait() if isinstance(process, subprocess.Popen) else process.join()
        code = process.returncode if isinstance(process, subprocess.Popen) else process.exitcode
        late += code != -signal.SIGKILL
        done.append(check_markers(output))
    return done, late


def test_killed_at_random_moments(model, model_folder, tmp_path):
    folder = draw(tmp_path / "images", 600, side=40)
    embed(model, [folder], tmp_path / "whole", Settings(batch_size=16, shard_size=25))
    # Forked from a process that has imported everything and computed nothing.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["clipfast.api", "clipfast.bulk", "tests.bulk.test_kill"])
    arguments = (folder, tmp_path / "killed", model_folder, 25)

    def start():
        process = processes.Process(target=job, args=arguments)
        process.start()
        return process

    (tmp_path / "killed").mkdir()
    done, late = kill_at_random(start, 0.6, 6, tmp_path / "killed")
    print(f"shards done after each kill: {done}; too late: {late}")
    assert late < 6
    job(*arguments)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert len(read(tmp_path / "killed", verify=True)) == 600


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_thirty_kills_of_the_command_over_twenty_thousand_images(tmp_path):
    folder = draw(tmp_path / "images", 20_000, side=40)
    finished, seconds = run(command(folder, tmp_path / "whole", "demo", 250))
    assert finished.returncode == 0, finished.stderr
    output = tmp_path / "killed"

    def start():
        arguments = command(folder, output, "demo", 250)
        return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    done, late = kill_at_random(start, 1 + seconds / 12, 30, output)
    finished, _ = run(command(folder, output, "demo", 250))
    assert finished.returncode == 0, finished.stderr
    print(
        f"30 kills, {late} too late; whole run {seconds:.1f} s; shards done after each kill: {done}"
    )
    print(f"last run: {finished.stdout}")
    assert late < 10
    assert contents(output) == contents(tmp_path / "whole")
    assert len(read(output, verify=True)) == 20_000


def mount(folder, size):
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder],
        capture_output=True,
        check=False,
    )
    return mounted.returncode == 0


@pytest.fixture
def disk(tmp_path):
    """A disk of 256 KiB."""
    folder = tmp_path / "disk"
    if os.geteuid() != 0 or not mount(folder, "256k"):
        pytest.skip("only root may mount a small tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)  # whoever looks at it may leave later


@pytest.mark.parametrize("form", ["clip-retrieval", "npy", "parquet"])
def test_a_full_disk_leaves_whole_shards_and_the_job_goes_on(form, model, disk, tmp_path):
    folder = draw(tmp_path / "images", 120, side=40)
    settings = Settings(batch_size=8, shard_size=10, format=form)
    embed(model, [folder], tmp_path / "whole", settings)
    ballast, output = disk / "ballast", disk / "out"
    ballast.write_bytes(bytes(150_000))
    with pytest.raises(OSError, match="No space left on device"):
        embed(model, [folder], output, settings)
    left = [path for path in disk.rglob("*") if path.name.endswith((".tmp", ".lock", ".jsonl"))]
    assert [path for path in left if path.parent.name != "metadata"] == []
    done = sorted(path.stem.removeprefix("done_") for path in (output / "done").iterdir())
    assert 0 < len(done) < 12
    data = output / ("embeddings" if form == "parquet" else "metadata")
    assert sorted(path.stem.rpartition("_")[2] for path in data.iterdir()) == done
    ballast.unlink()
    assert embed(model, [folder], output, settings).skipped_items == 10 * len(done)
    assert contents(output) == contents(tmp_path / "whole")


@pytest.mark.slow
def test_the_command_says_that_the_disk_is_full_in_one_line(disk, model_folder, tmp_path):
    folder = draw(tmp_path / "images", 120, side=40)
    (disk / "ballast").write_bytes(bytes(150_000))
    finished, _ = run(command(folder, disk / "out", model_folder, 10))
    print(finished.stderr)
    assert finished.returncode == 1
    lines = finished.stderr.splitlines()
    assert lines[-1].startswith("clipfast embed: ")
    assert "No space left on device" in lines[-1]
    assert "Traceback" not in finished.stderr
    (disk / "ballast").unlink()
    finished, _ = run(command(folder, disk / "out", model_folder, 10))
    assert finished.returncode == 0, finished.stderr
    assert len(read(disk / "out", verify=True)) == 120
