"""One OpenMP runtime in the process: two thread pools on the same cores would halve the speed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.native.kernels import needs_native

RUNTIMES = """
import re
maps = open("/proc/self/maps").read()
print(len(set(re.findall(r"/\\S*/lib(?:gomp|omp|iomp5)[^/\\s]*\\.so[^/\\s]*", maps))), "_native" in maps)
"""
SEARCH = """
import clipfast, numpy
clipfast.top_k(numpy.ones((4, 64), "float32"), numpy.ones((20000, 64), "float32"), 3)
"""
ENCODE = """
import clipfast, numpy
model = clipfast.load("demo")
images = model.encode_images(numpy.zeros((2, 80, 100, 3), "uint8"))
texts = model.encode_texts(["a red circle", "a blue square"])
clipfast.similarity(images, texts, model.logit_scale)
"""


@needs_native
@pytest.mark.parametrize("program", [SEARCH, ENCODE], ids=["search", "encode"])
def test_clipfast_alone_runs_one_openmp(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program + RUNTIMES], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1 True"
