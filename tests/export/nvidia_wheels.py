"""NVIDIA's wheels for the tests: downloaded once into the user's cache, never into the repository.

    python -m tests.export.nvidia_wheels       downloads what `make test-tensorrt-rtx` needs (146 MB)

The binding wheels need only a few C symbols of TensorRT's libraries; `stub.c` answers them with NULL, which is enough
to import and inspect the bindings. `rtx_shim.c` forwards them to TensorRT-RTX, whose builder runs without a GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clipfast" / "nvidia"
LIBRARIES = ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser")
RTX_WHEELS = ("tensorrt-cu13-bindings==11.4.0.106", "onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0")
RTX_FOLDER = "onnxruntime_ep_nv_tensorrt_rtx"


class WheelError(Exception):
    """A wheel cannot be had here."""


def unpacked(requirement: str, *, download: bool) -> Path:
    """The folder of an unpacked wheel.

    Raises:
        WheelError: it is not in the cache, and may not or cannot be downloaded.
    """
    folder = CACHE / requirement.replace("==", "-")
    if folder.is_dir():
        return folder
    if not download:
        raise WheelError(f"{requirement} is not in {CACHE}; `make test-tensorrt-rtx` downloads it")
    wheels = CACHE / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q"]
    options = ["--no-deps", "--only-binary", ":all:", "--retries", "0", "--timeout", "10"]
    ran = subprocess.run(
        [*pip, *options, "-d", str(wheels), requirement],
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise WheelError(
            f"{requirement} cannot be downloaded: {ran.stderr.strip().splitlines()[-1:]}"
        )
    name, version = requirement.split("==")
    (wheel,) = wheels.glob(f"{name.replace('-', '_')}-{version}-*.whl")
    partial = folder.with_suffix(".partial")
    zipfile.ZipFile(wheel).extractall(partial)
    partial.rename(folder)
    wheel.unlink()
    return folder


def compile_libraries(source: str, major: int, folder: Path) -> Path:
    """TensorRT's three libraries of one major version, made of one C file; returns their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in LIBRARIES:
        soname = f"{name}.so.{major}"
        command = ["gcc", "-shared", "-fPIC", str(HERE / source), "-o", str(folder / soname)]
        subprocess.run([*command, "-ldl", f"-Wl,-soname,{soname}"], check=True)
    return folder


def rtx_environment(folder: Path, *, download: bool) -> dict[str, str]:
    """The environment of a subprocess in which `import tensorrt` is TensorRT 11.4 over the TensorRT-RTX builder.

    Raises: WheelError.
    """
    bindings, provider = (unpacked(wheel, download=download) for wheel in RTX_WHEELS)
    libraries = provider / RTX_FOLDER
    (folder / "tensorrt.py").write_text(
        "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
    )
    shim = compile_libraries("rtx_shim.c", 11, folder)
    return os.environ | {
        "LD_LIBRARY_PATH": f"{shim}:{libraries}",
        "CLIPFAST_TEST_RTX_BUILDER": str(next(libraries.glob("libtensorrt_rtx.so.*"))),
        "CLIPFAST_TEST_RTX_PARSER": str(next(libraries.glob("libtensorrt_onnxparser_rtx.so.*"))),
        "PYTHONPATH": f"{folder}:{bindings}:{HERE.parents[1]}",
    }


if __name__ == "__main__":
    for wheel in RTX_WHEELS:
        print(wheel, "in", unpacked(wheel, download=True))
