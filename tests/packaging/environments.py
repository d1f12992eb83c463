"""Throw-away installations of a copy of the sources, beside this environment's packages but not its clipfast."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = (
    "pyproject.toml", "setup.py", "MANIFEST.in", "LICENSE", "README.md", "Makefile", "constraints.txt",
    "clipfast", "kernels", "csrc",
)  # fmt: skip
NO_COMPILER = {"CC": "/bin/false", "CXX": "/bin/false"}


def copy_sources(target: Path) -> Path:
    """The sources as a clone has them: links kept, nothing built."""
    unwanted = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")
    target.mkdir()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, symlinks=True, ignore=unwanted)
        else:
            shutil.copy(source, target / name)
    return target


@dataclass(frozen=True)
class Environment:
    """A virtual environment that sees this one's packages but not this one's clipfast."""

    folder: Path

    @staticmethod
    def create(folder: Path) -> Environment:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        site = next(folder.glob("lib/python*/site-packages"))
        # A path in a .pth file is searched, but the .pth files in it (an editable clipfast) are not.
        (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        return Environment(folder)

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def install(self, *arguments: str | Path, variables: dict[str, str] | None = None) -> str:
        """pip install without touching the network; what it printed."""
        command = [self.python, "-m", "pip", "install", "-v", "--no-deps", "--no-index"]
        done = subprocess.run(
            [*command, "--no-build-isolation", *arguments],
            capture_output=True,
            text=True,
            env=clean_variables() | (variables or {}),
            cwd=self.folder,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def run(self, program: str, variables: dict[str, str] | None = None) -> str:
        """What a program printed, run where no source of ours can be found by accident."""
        done = subprocess.run(
            [self.python, "-c", program],
            capture_output=True,
            text=True,
            env=clean_variables() | (variables or {}),
            cwd=self.folder,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()


def clean_variables() -> dict[str, str]:
    unwanted = ("PYTHONPATH", "CLIPFAST_", "COV_CORE", "COVERAGE_")
    return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
