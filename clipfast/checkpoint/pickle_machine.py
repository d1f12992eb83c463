"""A pickle machine that builds inert data only: what a torch weight file needs, and nothing else.

A pickle is a program for a stack machine. Python's own machine imports and calls what the file names; this one
imports nothing and calls nothing: a global stays a pair of strings, a tensor stays a description of where its bytes
are, and every opcode or name outside the short lists below is refused. Work and memory are linear in the pickle's size.

Source: opcodes and their arguments as the standard library's `pickletools` documents them; the names that torch
writes as in torch/_utils.py and torch/csrc/jit/serialization/pickler.cpp (BSD-3-Clause).
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

from clipfast.errors import CheckpointError

MAX_PICKLE_BYTES = (
    4 * 1024 * 1024
)  # of bigG with its optimiser: under 1 MB; each opcode costs some 3 us


class GlobalName(NamedTuple):
    """A name that the file mentions; it is never imported."""

    module: str
    name: str

    @property
    def is_torchscript_class(self) -> bool:
        return self.module == "__torch__" or self.module.startswith("__torch__.")


class StorageReference(NamedTuple):
    """`numel` elements of the torch type `dtype_name` ("Half", "Float", ...), stored under `key`."""

    dtype_name: str
    key: str
    numel: int


class TensorReference(NamedTuple):
    """A strided view of a storage; offset and strides in elements."""

    storage: StorageReference
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass
class ModuleObject:
    """An instance of a TorchScript class: its attributes, without its code."""

    state: dict[str, Any] | None = None


STORAGE_DTYPES = (
    "Half", "BFloat16", "Float", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool",
)  # fmt: skip
_REBUILD_TENSOR = GlobalName("torch._utils", "_rebuild_tensor_v2")
_REBUILD_PARAMETER = GlobalName("torch._utils", "_rebuild_parameter")
_ORDERED_DICT = GlobalName("collections", "OrderedDict")
_STORAGES = {GlobalName("torch", f"{dtype}Storage"): dtype for dtype in STORAGE_DTYPES}
_ALLOWED = {_REBUILD_TENSOR, _REBUILD_PARAMETER, _ORDERED_DICT, *_STORAGES}


class Unpickled(NamedTuple):
    """What a pickle describes, and every storage that it mentions, by key."""

    value: Any
    storages: dict[str, StorageReference]


class PickleRefusedError(CheckpointError):
    """The pickle asks for something that a weight file never needs; the message has no file name yet."""


def run_pickle(stream: IO[bytes]) -> Unpickled:
    """What the pickle at the stream's position describes, made of inert objects; the stream ends after its STOP.

    Args:
        stream: holds at most MAX_PICKLE_BYTES from its position on, which bounds the work.
    Returns: a value of dicts (also for OrderedDict), lists, tuples, str, int, float, bool, None, GlobalName,
        StorageReference, TensorReference and ModuleObject.
    Raises: PickleRefusedError for a name or opcode off the lists, or a pickle that is broken.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            operation = _OPERATIONS.get(opcode.name)
            if operation is None:
                raise PickleRefusedError(
                    f"its pickle uses the opcode {opcode.name}, which weight files never need"
                )
            operation(machine, argument)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise PickleRefusedError(
            f"its pickle is truncated or broken ({type(error).__name__}: {str(error)[:200]})"
        ) from None
    return Unpickled(machine.result, machine.storages)


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, StorageReference] = {}
        self.result: Any = None

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def pop_count(self, count: int) -> tuple[Any, ...]:
        if count > len(self.stack):
            raise IndexError("stack underflow")
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        return items


def _expect(condition: bool, what: str) -> None:
    if not condition:
        raise PickleRefusedError(f"its pickle holds a malformed {what}")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _set_items(target: Any, items: list[Any]) -> None:
    _expect(type(target) is dict and len(items) % 2 == 0, "dictionary")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Only keys whose hashes a file cannot make collide at will.
        _expect(type(key) is str or (type(key) is int and abs(key) < 2**31), "dictionary key")
        target[key] = value


def _set_item(machine: _Machine, _: Any) -> None:
    items = machine.pop_count(2)
    _set_items(machine.stack[-1], list(items))


def _set_marked_items(machine: _Machine, _: Any) -> None:
    items = machine.pop_to_mark()
    _set_items(machine.stack[-1], items)


def _extend(target: Any, items: list[Any]) -> None:
    _expect(type(target) is list, "list")
    target.extend(items)


def _append(machine: _Machine, _: Any) -> None:
    item = machine.pop()
    _extend(machine.stack[-1], [item])


def _append_marked(machine: _Machine, _: Any) -> None:
    items = machine.pop_to_mark()
    _extend(machine.stack[-1], items)


def _push_global(machine: _Machine, module: str, name: str) -> None:
    symbol = GlobalName(module, name)
    if not symbol.is_torchscript_class and symbol not in _ALLOWED:
        raise PickleRefusedError(
            f"its pickle names {f'{module}.{name}'[:200]!r}, which weight files never need and which could run code; "
            "if you trust it, load it with torch and save its state_dict() as safetensors"
        )
    machine.push(symbol)


def _global(machine: _Machine, argument: str) -> None:
    module, name = argument.split(" ", 1)
    _push_global(machine, module, name)


def _stack_global(machine: _Machine, _: Any) -> None:
    module, name = machine.pop_count(2)
    _expect(type(module) is str and type(name) is str, "global")
    _push_global(machine, module, name)


def _rebuild_tensor(arguments: tuple[Any, ...]) -> TensorReference:
    storage, offset, size, stride = arguments[:4]
    _expect(isinstance(storage, StorageReference), "tensor (no storage)")
    _expect(_is_count(offset), "tensor (offset)")
    _expect(type(size) is tuple and all(map(_is_count, size)), "tensor (sizes)")
    _expect(type(stride) is tuple and all(map(_is_count, stride)), "tensor (strides)")
    _expect(len(size) == len(stride) <= 8, "tensor (dimensions)")
    return TensorReference(storage, offset, size, stride)


def _reduce(machine: _Machine, _: Any) -> None:
    function, arguments = machine.pop_count(2)
    _expect(isinstance(function, GlobalName) and type(arguments) is tuple, "call")
    if function == _REBUILD_TENSOR:
        machine.push(_rebuild_tensor(arguments))
    elif function == _REBUILD_PARAMETER:
        _expect(bool(arguments) and isinstance(arguments[0], TensorReference), "parameter")
        machine.push(arguments[0])
    elif function == _ORDERED_DICT:
        _expect(arguments == (), "OrderedDict")
        machine.push({})
    else:
        raise PickleRefusedError(f"its pickle calls {'.'.join(function)[:200]!r}")


def _new_object(machine: _Machine, _: Any) -> None:
    cls, arguments = machine.pop_count(2)
    _expect(isinstance(cls, GlobalName) and cls.is_torchscript_class, "object")
    _expect(arguments == (), "object")
    machine.push(ModuleObject())


def _build(machine: _Machine, _: Any) -> None:
    state, target = machine.pop(), machine.stack[-1]
    if isinstance(target, ModuleObject):
        _expect(type(state) is dict and target.state is None, "module")
        target.state = state
    else:  # an OrderedDict's own attributes: torch keeps the state dict's `_metadata` there
        _expect(type(target) is dict and type(state) is dict, "object state")


def _persistent_id(machine: _Machine, _: Any) -> None:
    reference = machine.pop()
    _expect(type(reference) is tuple and len(reference) in (5, 6), "storage")
    kind, storage_type, key, _location, numel, *view = reference
    # The type first: hashing a tuple nested by the file would overflow the stack.
    _expect(type(storage_type) is GlobalName and storage_type in _STORAGES, "storage type")
    _expect(type(kind) is str and kind == "storage", "storage")
    _expect(type(key) is str and key.isascii() and key.isdigit() and _is_count(numel), "storage")
    _expect(view in ([], [None]), "storage view")
    storage = StorageReference(_STORAGES[storage_type], key, numel)
    _expect(machine.storages.setdefault(key, storage) == storage, "storage (described twice)")
    machine.push(storage)


def _stop(machine: _Machine, _: Any) -> None:
    machine.result = machine.pop()


def _push_argument(machine: _Machine, argument: Any) -> None:
    machine.push(argument)


def _push_constant(value: Any) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(value)


def _memoize(machine: _Machine, key: Any) -> None:
    machine.memo[len(machine.memo) if key is None else key] = machine.stack[-1]


_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, _: None),
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"),
        _push_argument,
    ),
    "NONE": _push_constant(None),
    "NEWTRUE": _push_constant(True),
    "NEWFALSE": _push_constant(False),
    "EMPTY_TUPLE": _push_constant(()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.push(machine.pop_count(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.pop_count(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.pop_count(3)),
    "APPEND": _append,
    "APPENDS": _append_marked,
    "SETITEM": _set_item,
    "SETITEMS": _set_marked_items,
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _memoize),
    **dict.fromkeys(
        ("BINGET", "LONG_BINGET"), lambda machine, key: machine.push(machine.memo[key])
    ),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "NEWOBJ": _new_object,
    "BUILD": _build,
    "BINPERSID": _persistent_id,
    "STOP": _stop,
}
