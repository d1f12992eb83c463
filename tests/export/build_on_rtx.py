"""Runs our own `build_engine` on graphs, where TensorRT is a builder without a GPU: a program for a subprocess.

python build_on_rtx.py FILE.onnx...       prints a JSON list, one entry a graph
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import clipfast.runtimes.tensorrt as ours
from clipfast.errors import ClipfastError
from clipfast.export.tensorrt import BuildSettings, build_engine


def build(path: Path) -> dict[str, object]:
    try:
        report = build_engine(path, verify=False, force=True, settings=BuildSettings())
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
    print(json.dumps([build(Path(path)) for path in sys.argv[1:]]))
