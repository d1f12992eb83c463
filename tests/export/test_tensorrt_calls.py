"""Every TensorRT call of ours exists, with these arguments, in real bindings from TensorRT 10.0 to 11.4."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.export.nvidia_wheels import WheelError, compile_libraries, unpacked

PACKAGE = Path(__file__).parents[2] / "clipfast"
SOURCES = [
    PACKAGE / "export" / "tensorrt.py",
    PACKAGE / "runtimes" / "engine_tower.py",
    PACKAGE / "runtimes" / "tensorrt.py",
]
VERSIONS = ("10.0.1", "10.16.1.11", "11.0.0.114", "11.4.0.106")


@pytest.fixture(scope="session", params=VERSIONS)
def environment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Of a subprocess that can import one version's bindings."""
    wheel = f"tensorrt-cu12-bindings=={request.param}"
    try:
        bindings = unpacked(wheel, download=True)
    except WheelError as error:
        pytest.skip(str(error))
    major = int(request.param.split(".")[0])
    stubs = compile_libraries("stub.c", major, tmp_path_factory.mktemp("stub"))
    (stubs / "tensorrt.py").write_text(
        "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
    )
    paths = f"{stubs}:{bindings}:{PACKAGE.parent}"
    return os.environ | {"LD_LIBRARY_PATH": str(stubs), "PYTHONPATH": paths}


def check(paths: list[Path], environment: dict[str, str]) -> dict[str, Any]:
    program = Path(__file__).with_name("tensorrt_calls.py")
    ran = subprocess.run(
        [sys.executable, str(program), *map(str, paths)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_every_call_exists(environment: dict[str, str]) -> None:
    found = check(SOURCES, environment)
    assert found["problems"] == []
    # The check must have understood the code: these are found only through inferred types.
    assert {
        "Builder.build_serialized_network",
        "IBuilderConfig.set_timing_cache",
        "IExecutionContext.execute_async_v3",
        "ICudaEngine.get_tensor_dtype",
        "INetworkDefinition.num_outputs",
        "IOptimizationProfile.set_shape",
        "OnnxParser.parse_from_file",
        "OnnxParserRefitter.refit_from_file",
        "ParserError.desc",
        "Runtime.deserialize_cuda_engine",
    } <= set(found["uses"])


WRONG = """
import tensorrt as trt
def old(config: trt.IBuilderConfig, network: trt.INetworkDefinition, anything):
    config.max_workspace_size = 1
    config.set_timing_cache(b"")
    network.get_input(idx=0)
    trt.BuilderFlag.NO_SUCH_FLAG
    anything.set_input_shape("x", (1,))
"""


def test_wrong_calls_are_found(environment: dict[str, str], tmp_path: Path) -> None:
    source = tmp_path / "old.py"
    source.write_text(WRONG)
    lines = {problem.split(":")[1] for problem in check([source], environment)["problems"]}
    assert lines == {"4", "5", "6", "7", "8"}


def test_without_a_gpu_the_error_says_so(environment: dict[str, str]) -> None:
    program = (
        "from clipfast.errors import DependencyError\n"
        "from clipfast.runtimes.tensorrt import import_tensorrt, make_or_explain\n"
        "trt = import_tensorrt()\n"
        "for factory in (trt.Builder, trt.Runtime):\n"
        "    try:\n"
        "        make_or_explain(factory)\n"
        "    except DependencyError as error:\n"
        "        print(error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("needs an NVIDIA GPU and its driver, and none is usable here") == 2
