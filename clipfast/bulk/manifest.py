"""manifest.json: the whole output at a glance. It says nothing that the markers do not, so anyone may rewrite it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clipfast.bulk.durable import write_text
from clipfast.bulk.job import Job
from clipfast.bulk.marker import read_markers

NAME = "manifest.json"


def write_manifest(folder: Path, job: Job) -> None:
    """Gather the markers of the job's shards, and write what they say.

    It holds "job", "complete", "items", "rows", "errors" by code, and "shards" with their rows and files.
    """
    written = -1
    # Another process may finish a shard meanwhile, and its newer manifest be replaced by ours: look again.
    while (manifest := _gather(folder, job))["items"] != written:
        write_text(folder / NAME, json.dumps(manifest, indent=1))
        written = manifest["items"]


def _gather(folder: Path, job: Job) -> dict[str, Any]:
    markers = [marker for marker in read_markers(folder) if marker.job == job.digest]
    errors: Counter[str] = Counter()
    for marker in markers:
        errors.update(marker.errors)
    return {
        "job": asdict(job),
        "complete": len(markers) == job.shards,
        "items": sum(marker.stop - marker.start for marker in markers),
        "rows": sum(marker.rows for marker in markers),
        "errors": dict(sorted(errors.items())),
        "shards": [
            {"shard": marker.shard, "rows": marker.rows, "files": sorted(marker.files)}
            for marker in markers
        ],
    }
