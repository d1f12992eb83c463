"""One writer per output and shard index, whoever died holding the lock."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from clipfast.bulk.lock import STALE_AFTER, locked
from clipfast.bulk.output import held
from clipfast.errors import ClipfastError

HOLDER = """
import sys, time
from pathlib import Path
from clipfast.bulk.output import held
with held(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def hold(tmp_path):
    """A function that starts a process holding tmp_path's lock (index, workers)."""
    processes = []

    def start(index, workers):
        command = [sys.executable, "-c", HOLDER, str(tmp_path), str(index), str(workers)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_the_second_process_is_refused_until_the_first_is_dead(hold, tmp_path, caplog):
    first = hold(0, 2)
    with (
        pytest.raises(ClipfastError, match=f"process {first.pid} on {socket.gethostname()} is"),
        held(tmp_path, 0, 2),
    ):
        pass
    with held(tmp_path, 1, 2):  # another index
        pass
    with (
        pytest.raises(ClipfastError, match="process 0-of-2, and this is 0-of-1"),
        held(tmp_path, 0, 1),
    ):
        pass
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert (tmp_path / "locks/0-of-2.lock").exists()
    with held(tmp_path, 0, 2):
        assert json.loads((tmp_path / "locks/0-of-2.lock").read_text())["pid"] == os.getpid()
    assert f"took over the lock of process {first.pid}" in caplog.text
    assert not list((tmp_path / "locks").iterdir())


def test_another_hosts_lock_counts_while_it_is_touched(tmp_path):
    """As on a file system whose locks other hosts do not see: the file is there and nobody here holds it."""
    path = tmp_path / "lock"
    path.write_text(json.dumps({"pid": 7, "host": "elsewhere", "since": 0}))
    with pytest.raises(ClipfastError, match="process 7 on elsewhere"), locked(path):
        pass
    assert path.exists()
    old = time.time() - STALE_AFTER - 1
    os.utime(path, (old, old))
    with locked(path) as lock:
        assert json.loads(path.read_text())["pid"] == os.getpid()
        os.utime(path, (old, old))
        lock.touch()
        assert path.stat().st_mtime < time.time() - 60  # not that often
        lock._touched -= 100
        lock.touch()
        assert path.stat().st_mtime > time.time() - 60


def test_a_lock_that_was_cut_short_is_taken(tmp_path):
    path = tmp_path / "lock"
    path.write_text('{"pid": 1')
    with locked(path):
        pass
    assert not path.exists()


def test_leftovers_of_killed_runs_are_removed(tmp_path):
    for folder in ("img_emb", "done", "metadata"):
        (tmp_path / folder).mkdir()
    mine = tmp_path / "img_emb/img_emb_00003.npy.host-1.tmp"
    other = tmp_path / "metadata/metadata_00004.parquet.host-1.tmp"
    nobodys = tmp_path / "manifest.json.host-1.tmp"
    data = tmp_path / "img_emb/img_emb_00001.npy"
    for path in (mine, other, nobodys, data):
        path.touch()
    with held(tmp_path, 1, 2):
        assert [path.exists() for path in (mine, other, nobodys, data)] == [False, True, True, True]
    os.utime(nobodys, (0, 0))
    with held(tmp_path, 1, 2):
        assert not nobodys.exists()
