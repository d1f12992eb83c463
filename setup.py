"""Builds clipfast._native: C++ for the CPU always, CUDA C++ where CLIPFAST_CUDA_ARCHS asks for it.

Without a C++ compiler the installation still succeeds, says so in one line, and plain torch serves every operation.
With a compiler, code that does not build is an error: a broken build must not pass as a slow one.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pybind11
from pybind11.setup_helpers import ParallelCompile
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, ExecError

ROOT = Path(__file__).resolve().parent
COMPILE_FLAGS = ["-std=c++17", "-O3", "-fopenmp", "-fvisibility=hidden", "-Wall", "-Wextra"]


def sources(folder: str, suffix: str) -> list[str]:
    """Paths of the sources in a folder, relative to the root and in a fixed order."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / folder).glob(f"*{suffix}"))


def headers() -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.h"))


# --- CUDA: csrc/cuda/*.cu, compiled by nvcc when CLIPFAST_CUDA_ARCHS (such as "80;90") is set ---


def cuda_objects(archs: str, build_folder: Path) -> list[str]:
    """Object files of csrc/cuda for each architecture, or [] when none is asked for."""
    if not archs:
        return []
    nvcc = os.environ.get("NVCC", "nvcc")
    code = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs.split(";")]
    objects = []
    for source in sources("csrc/cuda", ".cu"):
        target = build_folder / f"{Path(source).stem}.cu.o"
        flags = ["-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden", "-Icsrc", *code]
        subprocess.run([nvcc, *flags, "-c", source, "-o", str(target)], check=True, cwd=ROOT)
        objects.append(str(target))
    return objects


class BuildNative(build_ext):
    """build_ext that goes without the native module where there is no compiler."""

    def build_extension(self, extension: Extension) -> None:
        reason = self.missing_compiler()
        if reason is not None:
            print(f"clipfast: no native module ({reason}); plain torch will serve", file=sys.stderr)
            return
        build_folder = Path(self.build_temp)
        build_folder.mkdir(parents=True, exist_ok=True)
        archs = os.environ.get("CLIPFAST_CUDA_ARCHS", "")
        extension.extra_objects += cuda_objects(archs, build_folder)
        if archs:
            extension.define_macros.append(("CLIPFAST_CUDA", "1"))
            extension.extra_link_args.append("-lcudart_static")
        else:
            print("clipfast: CPU build (CLIPFAST_CUDA_ARCHS is not set)", file=sys.stderr)
        super().build_extension(extension)

    def missing_compiler(self) -> str | None:
        """None when a program with OpenMP compiles here, else the sentence why not."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "probe.cpp"
            source.write_text("#include <omp.h>\nint probe() { return omp_get_max_threads(); }\n")
            try:
                self.compiler.compile(
                    [str(source)], output_dir=folder, extra_postargs=COMPILE_FLAGS
                )
            except (CCompilerError, ExecError) as error:
                return f"a C++ compiler with OpenMP was not found: {error}"
        return None

    def get_outputs(self) -> list[str]:
        return [path for path in super().get_outputs() if Path(path).exists()]

    def copy_extensions_to_source(self) -> None:
        if all(Path(path).exists() for path in super().get_outputs()):
            super().copy_extensions_to_source()


ParallelCompile(default=0).install()  # as many compilers at once as there are processors
setup(
    packages=[
        *find_packages(include=["clipfast*"], exclude=["clipfast.kernels*"]),
        "clipfast.kernels",
    ],
    package_dir={"clipfast.kernels": "kernels"},
    include_package_data=False,  # package_data is the whole list
    package_data={
        "clipfast": ["py.typed", "*.json"],
        "clipfast.checkpoint": ["*.json"],
        "clipfast.inputs": ["data/*"],
        "clipfast.kernels": ["*.json"],
        "clipfast.export": ["*.json", "samples/*"],
        "clipfast.demo": ["weights/*", "samples/*", "*.json", "*.md"],
    },
    ext_modules=[
        Extension(
            "clipfast._native",
            sources=["csrc/bindings.cpp", *sources("csrc/cpu", ".cpp")],
            depends=headers(),
            include_dirs=["csrc", pybind11.get_include()],
            language="c++",
            extra_compile_args=COMPILE_FLAGS,
            extra_link_args=["-fopenmp"],
        )
    ],
    cmdclass={"build_ext": BuildNative},
)
