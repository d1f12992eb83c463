"""Every TensorRT call of ours exists, with these arguments, in real bindings from TensorRT 10.0 to 11.4."""

from __future__ import annotations

import json
import os
import re
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


def environment_of(version: str, folder: Path, *, libraries: bool = True) -> dict[str, str]:
    """Of a subprocess in which `import tensorrt` is one version's bindings, over libraries that answer NULL."""
    try:
        bindings = unpacked(f"tensorrt-cu12-bindings=={version}", download=True)
    except WheelError as error:
        pytest.skip(str(error))
    if libraries:
        compile_libraries("stub.c", int(version.split(".")[0]), folder)
    (folder / "tensorrt.py").write_text(
        "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
    )
    paths = f"{folder}:{bindings}:{PACKAGE.parent}"
    return os.environ | {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": paths}


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


@pytest.mark.parametrize("version", VERSIONS)
def test_every_call_exists(version: str, tmp_path: Path) -> None:
    found = check(SOURCES, environment_of(version, tmp_path))
    assert found["version"] == version
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
        "ParserError.code",
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


@pytest.mark.parametrize("version", [VERSIONS[0], VERSIONS[-1]])
def test_wrong_calls_are_found(version: str, tmp_path: Path) -> None:
    source = tmp_path / "old.py"
    source.write_text(WRONG)
    problems = check([source], environment_of(version, tmp_path))["problems"]
    assert {problem.split(":")[1] for problem in problems} == {"4", "5", "6", "7", "8"}


def run(program: str, environment: dict[str, str]) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.slow
def test_without_a_gpu_the_error_says_so(tmp_path: Path) -> None:
    program = """
from clipfast.errors import DependencyError
from clipfast.runtimes.tensorrt import import_tensorrt, make_or_explain
trt = import_tensorrt()
for factory in (trt.Builder, trt.Runtime):
    try:
        make_or_explain(factory)
    except DependencyError as error:
        print(error)
"""
    printed = run(program, environment_of(VERSIONS[-1], tmp_path))
    assert printed.count("needs an NVIDIA GPU and its driver, and none is usable here") == 2


@pytest.mark.slow
def test_without_its_libraries_the_error_names_them(tmp_path: Path) -> None:
    program = """
from clipfast.errors import DependencyError
from clipfast.runtimes.tensorrt import import_tensorrt
try:
    import_tensorrt()
except DependencyError as error:
    print(error)
"""
    printed = run(program, environment_of(VERSIONS[-1], tmp_path, libraries=False))
    assert re.search(r"libnv\w+\.so\.11 of the package tensorrt-cu13-libs", printed)
