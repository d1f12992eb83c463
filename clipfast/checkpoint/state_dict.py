"""From what a pickle described to named tensors: nesting undone, TorchScript modules walked, prefixes dropped."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from clipfast.checkpoint.pickle_machine import ModuleObject, TensorReference
from clipfast.errors import CheckpointError

_NESTED_UNDER = ("state_dict", "model_state_dict", "model", "module")
_WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.")
_MAX_MODULES = 100_000


def tensor_references(root: Any) -> dict[str, TensorReference]:
    """The named tensors of an unpickled object: a state dict, one nested in a checkpoint, or a TorchScript module.

    Raises: CheckpointError, without a file name, when there are none.
    """
    if isinstance(root, ModuleObject):
        return _module_tensors(root)
    while type(root) is dict:
        tensors = {
            str(name): value for name, value in root.items() if isinstance(value, TensorReference)
        }
        nested = next((root[key] for key in _NESTED_UNDER if type(root.get(key)) is dict), None)
        if nested is None or len(tensors) > 1:
            if not tensors:
                keys = ", ".join(map(repr, list(root)[:8]))
                raise CheckpointError(f"holds no tensors; its keys begin with {keys or 'nothing'}")
            return tensors
        root = nested
    raise CheckpointError(f"holds a {type(root).__name__}, expected a state dict of tensors")


def _module_tensors(root: ModuleObject) -> dict[str, TensorReference]:
    """Parameters and buffers of a TorchScript module tree, named as its state_dict() names them."""
    tensors: dict[str, TensorReference] = {}
    pending: list[tuple[str, ModuleObject]] = [("", root)]
    visited = 0
    while pending:
        prefix, module = pending.pop()
        visited += 1
        if visited > _MAX_MODULES:
            raise CheckpointError(f"its module tree has more than {_MAX_MODULES} modules")
        for name, value in (module.state or {}).items():
            if isinstance(value, TensorReference):
                tensors[f"{prefix}{name}"] = value
            elif isinstance(value, ModuleObject):
                pending.append((f"{prefix}{name}.", value))
    if not tensors:
        raise CheckpointError("holds a TorchScript module without tensors")
    return tensors


def wrapper_prefix(names: Iterable[str]) -> str:
    """What distributed training (`module.`), torch.compile (`_orig_mod.`) or a trainer put before every name."""
    names = list(names)
    prefix = ""
    while names:
        found = next(
            (p for p in _WRAPPER_PREFIXES if all(n.startswith(p, len(prefix)) for n in names)), None
        )
        if found is None:
            break
        prefix += found
    return prefix
