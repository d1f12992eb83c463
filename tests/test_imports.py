"""The one-way flow: which room may import which, what each may take from outside, and who reads the environment."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "clipfast"

BASE = {"errors", "config", "parameters", "environment", "threads"}
ENCODING = {"inputs", "ops", "model", "backends", "runtimes", "checkpoint", "_native"}
PLACING = ENCODING | {"encoder", "device"}
ENGINE = PLACING | {
    "engine",
    "hidden_states",
    "placement",
    "precision",
    "rows",
    "streams",
    "text_batches",
}
USES = ENGINE | {"sharded", "scoring", "templates", "zero_shot", "export", "bulk"}
API = USES | {"calibration", "loading", "api", "default_model"}

# Room -> the rooms that it may import besides BASE and itself.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "config": set(),
    "environment": set(),
    "threads": set(),
    "parameters": set(),
    "kernels": set(),
    "checkpoint": set(),
    "inputs": {"_native"},
    "ops": set(),
    "model": {"ops"},
    "backends": {"ops", "kernels", "_native"},
    "runtimes": {"inputs", "encoder"},
    "rows": {"ops"},
    "device": set(),
    "streams": {"_native"},
    "placement": PLACING | {"streams"},
    "text_batches": PLACING | {"placement", "streams"},
    "precision": ENCODING,
    "encoder": ENCODING,
    "engine": ENGINE,
    "hidden_states": ENGINE,
    "sharded": ENGINE,
    "templates": set(),
    "scoring": ENGINE,
    "zero_shot": ENGINE | {"scoring", "templates"},
    "export": ENGINE,
    "bulk": USES,
    "calibration": {"checkpoint"},
    "loading": USES | {"calibration"},
    "api": USES | {"calibration", "loading"},
    "default_model": USES | {"api"},
    "openai": API,
    "demo": API,
    "ray": API,
    "cli": API | {"demo", "openai", "ray"},
}

# Module from outside -> the rooms that may name it.
RESERVED = {
    "triton": {"kernels", "backends"},
    "onnxruntime": {"runtimes", "export"},
    "onnx": {"export"},
    "tensorrt": {"runtimes", "export"},
    "huggingface_hub": {"checkpoint", "cli"},
    "ray": {"ray"},
    "tokenizers": {"inputs"},
    "transformers": set[str](),
    "open_clip": set[str](),
    "torchvision": set[str](),
}


def python_files() -> list[Path]:
    kernels = sorted((ROOT / "kernels").rglob("*.py"))
    return kernels + [
        path for path in sorted(PACKAGE.rglob("*.py")) if PACKAGE / "kernels" not in path.parents
    ]


def room_of(path: Path) -> str:
    if ROOT / "kernels" in path.parents:
        return "kernels"
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def run_time_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only a type checker reads."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if not is_type_checking(child):
            yield from run_time_nodes(child)


def imported_modules(path: Path) -> set[str]:
    """Dotted names that a file imports at run time, inside functions too."""
    names: set[str] = set()
    for node in run_time_nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def imported_rooms(path: Path) -> set[str]:
    parts = (name.split(".") for name in imported_modules(path))
    rooms = {part[1] for part in parts if part[0] == "clipfast" and len(part) > 1}
    return rooms & (set(MAY_IMPORT) | {"_native"})


def violations(path: Path) -> set[str]:
    room = room_of(path)
    return imported_rooms(path) - MAY_IMPORT[room] - BASE - {room}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", python_files(), ids=relative)
def test_rooms_import_downstream_only(path: Path) -> None:
    if room_of(path) in {"__init__", "__main__"}:
        pytest.skip("the package's face names every room")
    assert room_of(path) in MAY_IMPORT, "a new room needs a line in MAY_IMPORT"
    assert not violations(path)


@pytest.mark.parametrize("path", python_files(), ids=relative)
def test_outside_packages_stay_in_their_rooms(path: Path) -> None:
    outside = {name.split(".")[0] for name in imported_modules(path)}
    room = room_of(path)
    assert not {name for name in outside & set(RESERVED) if room not in RESERVED[name]}


def test_rooms_do_not_import_in_a_circle() -> None:
    used = {room_of(path): set[str]() for path in python_files() if room_of(path) in MAY_IMPORT}
    for path in python_files():
        if room_of(path) in used:
            used[room_of(path)] |= imported_rooms(path) - {room_of(path)}
    for start in used:
        assert not leads_back(start, used)


def leads_back(start: str, used: dict[str, set[str]]) -> bool:
    """Whether some path of imports leaves a room and returns to it."""
    seen: set[str] = set()
    frontier = set(used[start])
    while frontier:
        room = frontier.pop()
        if room == start:
            return True
        seen.add(room)
        frontier |= used.get(room, set()) - seen
    return False


def test_a_forbidden_import_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = tmp_path / "clipfast" / "ops.py"
    room.parent.mkdir()
    room.write_text("def f():\n    from clipfast.api import load\n")
    monkeypatch.setattr("tests.test_imports.PACKAGE", room.parent)
    assert imported_rooms(room) == {"api"}
    assert imported_rooms(room) - MAY_IMPORT["ops"] - BASE == {"api"}


@pytest.mark.parametrize("path", python_files(), ids=relative)
def test_one_file_reads_the_environment(path: Path) -> None:
    reads = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}
    ]
    assert not reads or relative(path) == "clipfast/environment.py"


def sources() -> list[Path]:
    return [path for path in sorted((ROOT / "csrc").rglob("*")) if path.is_file()]


@pytest.mark.parametrize("path", sources(), ids=relative)
def test_native_sources_know_neither_torch_nor_python(path: Path) -> None:
    includes = re.findall(r'#include\s*[<"]([^>"]+)', path.read_text())
    assert not [name for name in includes if name.startswith(("torch/", "ATen/", "c10/"))]
    if not path.name.startswith("bindings"):
        assert not [name for name in includes if name.startswith(("pybind11", "Python.h"))]
