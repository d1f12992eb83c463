"""Builds clipfast._native: C++ for the CPU always, CUDA C++ where CLIPFAST_CUDA_ARCHS asks for it or a GPU is visible.

Without a C++ compiler the installation still succeeds, says so in one line, and plain torch serves every operation.
With a compiler, code that does not build is an error: a broken build must not pass as a slow one.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
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


# --- CUDA: csrc/cuda/*.cu, compiled by nvcc (NVCC names another one) for the architectures of CLIPFAST_CUDA_ARCHS,
# such as "80;90a", or of the visible GPU. Releases are built for "80;89;90a;100a;120a". ---

NVCC = os.environ.get("NVCC", "nvcc")
# The options that the kernels are designed with; the compile report judges them with the same file.
NVCC_OPTIONS = f"--options-file={ROOT / 'csrc' / 'cuda' / 'nvcc.options'}"


def cuda_architectures() -> str:
    """CLIPFAST_CUDA_ARCHS, or that of the first visible GPU where there is nvcc; empty for a CPU build."""
    asked = os.environ.get("CLIPFAST_CUDA_ARCHS")
    if asked is not None or shutil.which(NVCC) is None or shutil.which("nvidia-smi") is None:
        return asked or ""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader", "--id=0"]
    found = subprocess.run(query, capture_output=True, text=True, check=False)
    capability = found.stdout.strip().replace(".", "")
    if found.returncode != 0 or not capability.isdigit() or int(capability) < 80:
        return ""
    return capability + ("a" if int(capability) >= 90 else "")


def cuda_toolkit() -> tuple[list[str], list[str]]:
    """Include and library folders of nvcc's own toolkit, as it names them itself."""
    command = [NVCC, "--dryrun", "-o", "unused", "unused.cu"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    folders: dict[str, list[str]] = {"INCLUDES": [], "LIBRARIES": []}
    for line in told.splitlines():
        name, _, value = line.removeprefix("#$ ").partition("=")
        if name in folders:
            folders[name] = [word[2:] for word in shlex.split(value)]
    return folders["INCLUDES"], folders["LIBRARIES"]


def cuda_objects(archs: str, build_folder: Path) -> list[str]:
    """Object files of csrc/cuda, each with code for every architecture."""
    code = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs.split(";")]

    def compile_one(source: str) -> str:
        target = build_folder / f"{Path(source).stem}.cu.o"
        command = [NVCC, NVCC_OPTIONS, "-Icsrc", *code, "-c", source, "-o", str(target)]
        subprocess.run(command, check=True, cwd=ROOT)
        return str(target)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, sources("csrc/cuda", ".cu")))


def add_cuda(extension: Extension, archs: str, build_folder: Path) -> None:
    """Compiles the kernels and adds them, their bindings and the CUDA runtime to the module."""
    includes, libraries = cuda_toolkit()
    extension.extra_objects += cuda_objects(archs, build_folder)
    extension.sources.append("csrc/bindings_cuda.cpp")
    extension.include_dirs += includes
    extension.library_dirs += libraries
    extension.define_macros.append(("CLIPFAST_CUDA", f'"{archs}"'))
    # Static: the module imports, and says that there is no GPU, where no CUDA is installed.
    extension.extra_link_args += ["-lcudart_static", "-lrt", "-ldl", "-lpthread"]


class BuildNative(build_ext):
    """build_ext that goes without the native module where there is no compiler."""

    def build_extension(self, extension: Extension) -> None:
        reason = self.missing_compiler()
        if reason is not None:
            print(f"clipfast: no native module ({reason}); plain torch will serve", file=sys.stderr)
            return
        build_folder = Path(self.build_temp)
        build_folder.mkdir(parents=True, exist_ok=True)
        archs = cuda_architectures()
        if archs:
            print(f"clipfast: CUDA kernels for {archs}", file=sys.stderr)
            add_cuda(extension, archs, build_folder)
        else:
            print("clipfast: CPU build (no GPU, CLIPFAST_CUDA_ARCHS not set)", file=sys.stderr)
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
            sources=[
                "csrc/bindings.cpp",
                "csrc/bindings_towers.cpp",
                *sources("csrc/cpu", ".cpp"),
            ],
            depends=headers(),
            include_dirs=["csrc", pybind11.get_include()],
            language="c++",
            extra_compile_args=COMPILE_FLAGS,
            extra_link_args=["-fopenmp"],
        )
    ],
    cmdclass={"build_ext": BuildNative},
)
