"""What the kernels' sources keep to: Triton's portable subset, nothing that tunes, switches or asks at run time."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[2] / "kernels"
FILES = sorted(KERNELS.glob("*.py"))
# Gone, changed or positional between Triton 3.6 and 3.9; and what belongs elsewhere.
FORBIDDEN = (
    "make_block_ptr", "tl.advance", "make_tensor_descriptor", "dot_scaled", "boundary_check", "inline_asm", "autotune",
    "heuristics", "environ", "TRITON_INTERPRET", "__main__", "atomic_",
)  # fmt: skip


def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


def kernels_of(path: Path) -> set[str]:
    names = (
        node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)
    )
    return {name for name in names if name.endswith("_kernel")}


def test_there_is_a_file_for_each_operation() -> None:
    names = {path.stem for path in FILES}
    assert {"patch_embed", "attention", "layer_norm", "linear", "similarity", "top_k"} <= names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_portable_words_only(path: Path) -> None:
    source = path.read_text()
    assert [word for word in FORBIDDEN if word in source] == []
    assert len(source.splitlines()) <= 300


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_launch_says_whether_products_fuse(path: Path) -> None:
    launches = [call for call in calls(path) if isinstance(call.func, ast.Subscript)]
    assert {ast.unparse(launch.func.value) for launch in launches} == kernels_of(path)
    for launch in launches:
        given = {word.arg: word.value for word in launch.keywords}
        assert ast.unparse(given["enable_fp_fusion"]) == "True"
        assert "num_warps" in given


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_loads_and_stores_have_two_positions_at_most(path: Path) -> None:
    """Pointer, and for a store the value; masks and cache arguments by keyword."""
    for call in calls(path):
        name = ast.unparse(call.func)
        if name in ("tl.load", "tl.store"):
            assert len(call.args) == (1 if name == "tl.load" else 2)
