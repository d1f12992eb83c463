"""What pip puts where: normal and editable installs, with and without a compiler."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from itertools import chain
from pathlib import Path

import pytest

from tests.packaging.environments import (
    NO_COMPILER,
    Environment,
    clean_variables,
    copy_sources,
)

pytestmark = pytest.mark.slow

WHERE = """
import clipfast, clipfast.kernels, torch
from clipfast import _native
print(clipfast.__file__, clipfast.kernels.__file__, _native.__file__, sep="\\n")
"""
SEARCH = """
import torch, clipfast
from clipfast.backends import select_ops
queries = torch.tensor([[3.0, 4.0]])
scores, indices = clipfast.top_k(queries, torch.tensor([[0.0, 1.0], [4.0, 3.0]]), 1)
ops = select_ops("auto", device="cpu", dtype=torch.float32)
print(indices.item(), f"{scores.item():.6f}", ops.name)
"""


PACKAGE_DATA = (
    "py.typed",
    "checkpoint/pretrained.json",
    "inputs/data/*.gz",
    "demo/weights/*.safetensors",
    "demo/samples/*",
)


def python_files(package: Path) -> set[str]:
    files = chain(package.rglob("*.py"), (package / "kernels").rglob("*.py"))
    return {str(path.relative_to(package)) for path in files}


def test_a_normal_install_is_whole(tmp_path: Path) -> None:
    environment = Environment.create(tmp_path / "venv")
    sources = copy_sources(tmp_path / "sources")
    environment.install(sources)
    package, kernels, native = map(Path, environment.run(WHERE).split("\n"))
    assert environment.folder in package.parents
    assert kernels == package.parent / "kernels" / "__init__.py"
    assert native.parent == package.parent
    # kernels/ is among them, through the link.
    assert python_files(package.parent) == python_files(sources / "clipfast")
    for name in PACKAGE_DATA:
        assert list(package.parent.glob(name)), name
    assert environment.run(SEARCH) == "1 0.960000 cpu"
    assert (environment.folder / "bin" / "clipfast").exists()


def test_an_editable_install_runs_the_sources(tmp_path: Path) -> None:
    environment = Environment.create(tmp_path / "venv")
    sources = copy_sources(tmp_path / "sources")
    environment.install("--editable", sources)
    package, kernels, native = map(Path, environment.run(WHERE).split("\n"))
    assert package == sources / "clipfast" / "__init__.py"
    assert kernels.resolve() == sources / "kernels" / "__init__.py"
    assert native.parent == package.parent
    (sources / "kernels" / "added_later.py").write_text("VALUE = 7\n")
    program = "from clipfast.kernels.added_later import VALUE; print(VALUE)"
    assert environment.run(program) == "7"


@pytest.mark.parametrize("editable", [False, True], ids=["normal", "editable"])
def test_without_a_compiler_the_reference_serves(tmp_path: Path, editable: bool) -> None:
    environment = Environment.create(tmp_path / "venv")
    sources = copy_sources(tmp_path / "sources")
    flags = ["--editable"] if editable else []
    printed = environment.install(*flags, sources, variables=NO_COMPILER)
    notices = {line.strip() for line in printed.splitlines() if "no native module" in line}
    assert len(notices) == 1
    assert notices.pop().endswith("plain torch will serve")
    assert environment.run(SEARCH) == "1 0.960000 reference"
    named = (
        "import clipfast, clipfast.backends as b, torch\n"
        "try: b.select_ops('cpu', device='cpu', dtype=torch.float32)\n"
        "except clipfast.errors.UnsupportedError as error: print(error)\n"
    )
    assert environment.run(named).endswith("clipfast was built without the C++ extension")


def test_sources_that_do_not_compile_are_an_error(tmp_path: Path) -> None:
    environment = Environment.create(tmp_path / "venv")
    sources = copy_sources(tmp_path / "sources")
    (sources / "csrc" / "cpu" / "cpu_features.cpp").write_text("this is not C++\n")
    with pytest.raises(AssertionError, match="this is not C"):
        environment.install(sources)


def test_a_repaired_wheel_serves_without_a_compiler(tmp_path: Path) -> None:
    sources = copy_sources(tmp_path / "sources")
    for target in ("build/wheel", "dist"):
        (sources / target).mkdir(parents=True)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps"]
    subprocess.run(
        [*build, "--no-index", "--wheel-dir", "build/wheel", "."],
        check=True,
        cwd=sources,
        env=clean_variables(),
    )
    built = next((sources / "build" / "wheel").glob("*.whl"))
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"  # auditwheel calls patchelf
    repair = [sys.executable, "-m", "auditwheel", "repair", "--exclude", "libgomp.so.1"]
    subprocess.run(
        [*repair, "--wheel-dir", "dist", built],
        check=True,
        cwd=sources,
        env=clean_variables() | {"PATH": path},
    )
    wheel = next((sources / "dist").glob("*.whl"))
    print(wheel.name)
    assert "-manylinux_" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if "libgomp" in name]
    for name in ("clipfast/py.typed", "clipfast/kernels/__init__.py"):
        assert name in names
    environment = Environment.create(tmp_path / "venv")
    environment.install(wheel, variables=NO_COMPILER)
    assert environment.run(SEARCH, NO_COMPILER) == "1 0.960000 cpu"
    encode = (
        "import clipfast; m = clipfast.load('demo');"
        "print(m.encode_texts(['a red circle']).norm().item() - 1 < 1e-5)"
    )
    assert environment.run(encode, NO_COMPILER) == "True"
