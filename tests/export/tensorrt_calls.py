"""Checks every use of TensorRT in source files against the bindings that can be imported: run as a program.

    python tensorrt_calls.py FILE...      prints {"version", "uses": [...], "problems": [...]}

Types are inferred from annotations (`trt.IBuilderConfig`) and from the signatures in pybind11's docstrings. A call
is right when some overload takes its number of positional arguments and all of its keywords. A member that only
TensorRT has, on a value whose type was not inferred, is a problem too: nothing may escape the check.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorrt_bindings as trt

MODULE = "module"


@dataclass(frozen=True)
class Instance:
    cls: type


@dataclass(frozen=True)
class ListOf:
    item: Any


@dataclass(frozen=True)
class Method:
    owner: type
    name: str


def classes() -> list[type]:
    return [value for value in vars(trt).values() if isinstance(value, type)]


# Members that no Python or torch object would have.
OWN_MEMBERS = {
    name
    for cls in classes()
    if cls.__module__.startswith("tensorrt")
    for name in vars(cls)
    if "_" in name.strip("_") and not name.startswith("_")
} - {"tensorrt_version"}  # a field of our own sidecar too


def signatures(owner: type, name: str) -> list[tuple[int, int, set[str], str]]:
    """(least, most positional arguments, keywords, return type) of each overload, from its docstring."""
    doc = getattr(owner, name).__doc__ or ""
    found = []
    for match in re.finditer(rf"{name}\((self: [^,)]*)?(?:, )?(.*)\) -> (.+)", doc):
        parameters = split_parameters(match[2])
        names = [parameter.split(":")[0].strip() for parameter in parameters]
        required = sum("=" not in parameter for parameter in parameters)
        found.append((required, len(parameters), set(names), match[3].strip()))
    return found


def split_parameters(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for index, letter in enumerate(text):
        depth += (letter in "([<") - (letter in ")]>" and text[index - 1] != "-")
        if letter == "," and not depth:
            parts.append(text[start:index])
            start = index + 1
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def type_of_doc(text: str) -> Any:
    """The value that a signature's return type names."""
    listed = re.match(r"[Ll]ist\[(.+)\]", text)
    if listed:
        return ListOf(type_of_doc(listed[1]))
    name = text.rsplit(".", 1)[-1]
    found = getattr(trt, name, None)
    return Instance(found) if isinstance(found, type) else None


class Checker(ast.NodeVisitor):
    def __init__(self, path: Path) -> None:
        self.path = path
        self.tree = ast.parse(path.read_text())
        self.names: dict[str, Any] = {}
        self.uses: set[str] = set()
        self.problems: list[str] = []
        self.returns = {
            node.name: annotated(node.returns)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.FunctionDef)
        }
        # `self._engine: trt.ICudaEngine = ...` and dataclass fields, by the attribute's name.
        self.attributes = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.AnnAssign) and annotated(node.annotation):
                target = node.target
                name = target.attr if isinstance(target, ast.Attribute) else target.id
                self.attributes[name] = annotated(node.annotation)

    def problem(self, node: ast.AST, text: str) -> None:
        self.problems.append(f"{self.path.name}:{node.lineno}: {text}")

    # ---- statements, in order --------------------------------------------------------------------------------

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer, self.names = self.names, dict(self.names)
        for argument in node.args.args:
            self.names[argument.arg] = annotated(argument.annotation)
        for statement in node.body:
            self.visit(statement)
        self.names = outer

    def visit_Assign(self, node: ast.Assign) -> None:
        value = self.infer(node.value)
        for target in node.targets:
            if isinstance(target, ast.Name):
                self.names[target.id] = value
            elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                for name, item in zip(target.elts, node.value.elts, strict=True):
                    self.names[name.id] = self.infer(item)
            else:
                self.infer(target)

    def visit_For(self, node: ast.For) -> None:
        self.bind(node.target, node.iter)
        for statement in [*node.body, *node.orelse]:
            self.visit(statement)

    def generic_visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.expr):
            self.infer(node)
        else:
            super().generic_visit(node)

    def bind(self, target: ast.expr, iterated: ast.expr) -> None:
        value = self.infer(iterated)
        if isinstance(target, ast.Name):
            self.names[target.id] = value.item if isinstance(value, ListOf) else None

    # ---- expressions -----------------------------------------------------------------------------------------

    def infer(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Name):
            return MODULE if node.id == "trt" else self.names.get(node.id)
        if isinstance(node, ast.Attribute):
            return self.attribute(node)
        if isinstance(node, ast.Call):
            return self.call(node)
        if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
            for generator in node.generators:
                self.bind(generator.target, generator.iter)
            if isinstance(node, ast.DictComp):
                self.infer(node.value)
                return None
            return ListOf(self.infer(node.elt))
        if isinstance(node, ast.Subscript):
            value = self.infer(node.value)
            self.infer(node.slice)
            return value.item if isinstance(value, ListOf) else None
        super().generic_visit(node)
        return None

    def attribute(self, node: ast.Attribute) -> Any:
        owner = self.infer(node.value)
        if owner == MODULE:
            return self.member(node, trt, f"trt.{node.attr}")
        if isinstance(owner, type):
            return self.member(node, owner, f"{owner.__name__}.{node.attr}")
        if isinstance(owner, Instance):
            found = self.member(node, owner.cls, f"{owner.cls.__name__}.{node.attr}")
            return Method(owner.cls, node.attr) if callable(found) else None
        if node.attr in self.attributes:
            return self.attributes[node.attr]
        if node.attr in OWN_MEMBERS:
            self.problem(node, f".{node.attr} on a value whose type is not known")
        return None

    def member(self, node: ast.Attribute, owner: Any, shown: str) -> Any:
        self.uses.add(shown)
        if not hasattr(owner, node.attr):
            self.problem(node, f"{shown} does not exist")
            return None
        return getattr(owner, node.attr)

    def call(self, node: ast.Call) -> Any:
        function = self.infer(node.func)
        for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
            self.infer(argument)
        if isinstance(function, Method):
            return self.check_call(node, function.owner, function.name)
        if isinstance(function, type):
            self.check_call(node, function, "__init__")
            return Instance(function)
        if isinstance(node.func, ast.Name):
            return MODULE if node.func.id == "import_tensorrt" else self.returns.get(node.func.id)
        return None

    def check_call(self, node: ast.Call, owner: type, name: str) -> Any:
        keywords = {keyword.arg for keyword in node.keywords}
        shown = f"{owner.__name__}.{name}"
        overloads = signatures(owner, name)
        # A subclass hands itself to its base's __init__ by position.
        for least, most, names, returned in overloads:
            count = len(node.args) + len(keywords)
            if least <= count <= most and keywords <= names:
                return type_of_doc(returned)
        self.problem(node, f"{shown} takes none of {len(node.args)} arguments + {sorted(keywords)}")
        return None


def annotated(node: ast.expr | None) -> Any:
    """The instance that an annotation `trt.X` (or `trt.X | None`) stands for."""
    if isinstance(node, ast.BinOp):
        return annotated(node.left)
    if (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "trt"
    ):
        found = getattr(trt, node.attr, None)
        return Instance(found) if isinstance(found, type) else None
    return None


def main(paths: list[str]) -> None:
    uses, problems = set(), []
    for path in paths:
        checker = Checker(Path(path))
        for statement in checker.tree.body:
            checker.visit(statement)
        uses |= checker.uses
        problems += checker.problems
    print(json.dumps({"version": trt.__version__, "uses": sorted(uses), "problems": problems}))


if __name__ == "__main__":
    main(sys.argv[1:])
