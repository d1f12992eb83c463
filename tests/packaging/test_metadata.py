"""What pyproject, constraints and the package say of each other."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def normal_name(requirement: str) -> str:
    name = re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split(";")[0].strip().split("==") for line in lines if line and line[0] != "#"]
    return {normal_name(name): version for name, version in pairs}


def test_every_base_and_development_dependency_is_pinned() -> None:
    wanted = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
    assert {normal_name(requirement) for requirement in wanted} <= set(pinned())
    assert pinned()["torch"] == "2.13.0"


def test_every_pin_is_exact_and_installed() -> None:
    for name, version in pinned().items():
        assert metadata.version(name).split("+")[0] == version, name


def test_every_base_dependency_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    block = text[text.index("dependencies = [") : text.index("[project.optional-dependencies]")]
    lines = [line for line in block.splitlines() if line.strip().startswith('"')]
    assert len(lines) == len(PROJECT["dependencies"])
    assert all(re.search(r'",\s+# \w', line) for line in lines)


@pytest.mark.parametrize("name", ["clipfast", "clipfast.kernels", "clipfast.backends.cpu"])
def test_a_bare_checkout_imports(name: str) -> None:
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    assert ROOT in Path(spec.origin).resolve().parents
    assert (ROOT / "clipfast" / "py.typed").exists()
