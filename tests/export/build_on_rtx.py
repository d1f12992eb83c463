"""Runs our own `build_engine` on graphs, where TensorRT is a builder without a GPU: a program for a subprocess.

python build_on_rtx.py OPTIONS FILE.onnx...       prints a JSON list, one entry a graph

OPTIONS is JSON: {"settings": {...BuildSettings...}, "timing_cache": "FILE"}, both optional.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import clipfast.runtimes.tensorrt as ours
from clipfast.errors import ClipfastError
from clipfast.export.tensorrt import BuildSettings, build_engine


def build(path: Path, settings: BuildSettings, timing_cache: str | None) -> dict[str, object]:
    try:
        report = build_engine(
            path, verify=False, force=True, settings=settings, timing_cache=timing_cache
        )
    except ClipfastError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    plan = Path(report.engine).read_bytes()
    return {
        "layers": report.layers,
        "bytes": len(plan),
        "seconds": report.seconds,
        "logged_errors": list(ours.tensorrt_logger().errors),
        "fused_attention": len(re.findall(rb"_gemm_mha_v2_0x", plan)),
        "sidecar": json.loads(Path(report.engine + ".json").read_text()),
    }


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    given = options.get("settings", {})
    given["profiles"] = tuple(tuple(profile) for profile in given.get("profiles", ()))
    built = [
        build(Path(path), BuildSettings(**given), options.get("timing_cache"))
        for path in sys.argv[2:]
    ]
    print(json.dumps(built))
