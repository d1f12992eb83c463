"""Torch files made to run code, to exhaust memory or to read out of bounds: each is refused, and nothing runs."""

from __future__ import annotations

import os
import pickle
import pickletools
import resource
import zipfile
from pathlib import Path

import pytest
import torch

from clipfast.checkpoint import load_checkpoint
from clipfast.checkpoint.pickle_machine import _OPERATIONS
from clipfast.errors import CheckpointError
from tests.checkpoint.archives import assemble, tensor_pickle, write_archive


class _Calls:
    """Pickles as a call of `function(*arguments)`, which Python's own unpickler would make."""

    def __init__(self, function, *arguments):
        self._call = (function, arguments)

    def __reduce__(self):
        return self._call


def _refused(path: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)


GADGETS = {
    "os.system": (os.system, "touch {canary}"),
    "eval": (eval, "open({canary!r}, 'w')"),
    "exec": (exec, "open({canary!r}, 'w')"),
    "torch.load": (torch.load, "{canary}"),
    "getattr": (getattr, "{canary}", "upper"),
    "open": (open, "{canary}", "w"),
}


@pytest.mark.parametrize("gadget", GADGETS)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_that_calls_is_refused_and_nothing_runs(tmp_path, gadget, legacy, protocol):
    canary = tmp_path / "canary"
    function, *arguments = GADGETS[gadget]
    bomb = _Calls(function, *[argument.format(canary=str(canary)) for argument in arguments])
    path = tmp_path / "weights.pt"
    if legacy:
        magic = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + pickle.dumps(1001, protocol=2)
        machine = pickle.dumps({"little_endian": True}, protocol=2)
        path.write_bytes(magic + machine + pickle.dumps({"weight": bomb}, protocol=protocol))
    else:
        write_archive(path, pickle.dumps({"weight": bomb}, protocol=protocol))
    _refused(path, rf"its pickle names '[\w.]+\.{function.__name__}'")
    assert not canary.exists()


def test_the_gadget_is_live():
    """The pickle that is refused above does run under Python's own unpickler."""
    assert pickle.loads(pickle.dumps(_Calls(str.upper, "ran"))) == "RAN"


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_setstate_does_not_run(tmp_path):
    canary = tmp_path / "canary"

    class Hostile(torch.nn.Module):
        def __init__(self, path: str) -> None:
            super().__init__()
            self.path = path
            self.weight = torch.zeros(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

        @torch.jit.export
        def __getstate__(self) -> tuple[str, torch.Tensor]:
            return (self.path, self.weight)

        @torch.jit.export
        def __setstate__(self, state: tuple[str, torch.Tensor]) -> None:
            self.path = state[0]
            self.weight = torch.from_file(state[0], True, 4)
            self.training = False

    path = tmp_path / "ViT-B-32.pt"
    torch.jit.save(torch.jit.script(Hostile(str(canary))), path)
    _refused(path, "malformed module")
    assert not canary.exists()
    torch.jit.load(path)
    assert canary.exists(), "the file does run code where torch.jit.load opens it"


# Every opcode of Python's that a weight file does not need, among them all other ways to name or call something.
_REFUSED = {
    "INT", "LONG", "LONG4", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER", "UNICODE", "BINUNICODE8", "FLOAT", "LIST", "DICT", "EMPTY_SET",
    "ADDITEMS", "FROZENSET", "POP", "DUP", "POP_MARK", "GET", "PUT", "EXT1", "EXT2", "EXT4", "INST", "OBJ",
    "NEWOBJ_EX", "PERSID",
}  # fmt: skip


MALFORMED = {
    "call_of_a_stub": ("c __torch__:Evil ) R", "calls '__torch__.Evil'"),
    "stub_called_on_itself": ("c __torch__:Evil put 0 ( get 0 t R", "calls '__torch__.Evil'"),
    "object_with_arguments": ("c __torch__:Evil ( X x t new", "malformed object"),
    "object_of_an_allowed_function": ("c torch._utils:_rebuild_tensor_v2 ) new", "malformed object"),
    "state_twice": ("c __torch__:A ) new } b } b", "malformed module"),
    "state_not_a_dictionary": ("c __torch__:A ) new ] b", "malformed module"),
    "ordered_dict_of_arguments": ("c collections:OrderedDict ( ] t R", "malformed OrderedDict"),
    "nested_global": ("c torch:FloatStorage.__class__", "names 'torch.FloatStorage.__class__'"),
    "numpy": ("c numpy.core.multiarray:_reconstruct", r"names 'numpy.core.multiarray._reconstruct'"),
    "dictionary_with_a_list_key": ("} ] X x s", "malformed dictionary key"),
    "dictionary_with_a_huge_key": (f"}} I {2**61 - 1} X x s", "malformed dictionary key"),
    "items_of_a_list": ("] X k X v s", "malformed dictionary"),
    "append_to_a_dictionary": ("} X x a", "malformed list"),
    "stack_underflow": ("R", "truncated or broken"),
    "memo_that_was_never_put": ("get 7", "truncated or broken"),
    "storage_of_another_kind": ("( X module c torch:FloatStorage X 0 X cpu I 1 t Q", "malformed storage"),
    "storage_key_with_a_path": ("( X storage c torch:FloatStorage X ../0 X cpu I 1 t Q", "malformed storage"),
    "storage_of_negative_size": ("( X storage c torch:FloatStorage X 0 X cpu I -1 t Q", "malformed storage"),
    "storage_type_from_the_file": ("( X storage ( t X 0 X cpu I 1 t Q", "malformed storage type"),
    "no_tensors": ("}", "holds no tensors"),
    "not_a_dictionary": ("X hello", "holds a str"),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_pickles(tmp_path, case):
    program, match = MALFORMED[case]
    _refused(write_archive(tmp_path / "weights.pt", assemble(program)), match)


def test_a_deeply_nested_storage_type_does_not_overflow_the_stack(tmp_path):
    """Hashing or comparing what this pickle nests 300,000 levels deep would end the process."""
    head, key, tail = (
        b"\x80\x02(X\x07\x00\x00\x00storage)",
        b"X\x01\x00\x00\x000",
        b"N\x8a\x01\x01tQ.",
    )
    deep = head + b"\x85" * 300_000 + key + tail
    _refused(write_archive(tmp_path / "weights.pt", deep), "malformed storage type")


UNSAFE_NAMES = (
    "../evil",
    "/etc/evil",
    "archive/../../evil",
    "archive\\evil",
    "other/data/0",
    "toplevel",
)


@pytest.mark.parametrize("name", UNSAFE_NAMES)
def test_entry_names_that_leave_the_archive(tmp_path, name):
    path = write_archive(
        tmp_path / "weights.pt", tensor_pickle(), {"0": bytes(16)}, extra={name: b"x"}
    )
    _refused(path, "unsafe entry name|top-level folders")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["weights.pt"]


def test_two_entries_of_one_name(tmp_path):
    path = tmp_path / "weights.pt"
    with pytest.warns(UserWarning, match="Duplicate name"):
        write_archive(path, tensor_pickle(), {"0": bytes(16)}, extra={"archive/data/0": bytes(16)})
    _refused(path, "share a name")


def test_a_zip_bomb_is_never_inflated(tmp_path):
    bomb = assemble("} X pad X " + "a" * 1_000_000 + " s")
    path = write_archive(tmp_path / "weights.pt", bomb, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10_000
    _refused(path, "a zip bomb")


def test_a_compressed_storage_is_refused(tmp_path):
    path = tmp_path / "weights.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", tensor_pickle())
        archive.writestr("archive/data/0", bytes(16), compress_type=zipfile.ZIP_DEFLATED)
        archive.writestr("archive/pad", bytes(1000))
    _refused(path, "compressed or encrypted")


def test_a_pickle_longer_than_any_model_needs(tmp_path):
    path = write_archive(tmp_path / "weights.pt", b"\x80\x02" + b"N0" * (3 * 2**20))
    _refused(path, "expected at most 4194304")


def test_a_pickle_of_the_permitted_length_is_bounded_in_time(tmp_path):
    """A megabyte of the cheapest opcodes: work is linear in the length."""
    path = write_archive(tmp_path / "weights.pt", b"\x80\x02" + b")" * (2**20) + b".")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    _refused(path, "holds a tuple")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 10


def test_a_module_that_contains_itself(tmp_path):
    path = write_archive(
        tmp_path / "weights.pt", assemble("c __torch__:A ) new put 0 } X child get 0 s b")
    )
    _refused(path, "more than 100000 modules")


def test_modules_shared_exponentially(tmp_path):
    program = "c __torch__:A ) new } b put 0 "
    for level in range(40):
        program += f"c __torch__:A ) new }} X l get {level} s X r get {level} s b put {level + 1} "
    path = write_archive(tmp_path / "weights.pt", assemble(program))
    _refused(path, "more than 100000 modules")


def test_big_endian_archives_are_refused(tmp_path):
    path = write_archive(
        tmp_path / "weights.pt",
        tensor_pickle(),
        {"0": bytes(16)},
        extra={"archive/byteorder": b"big"},
    )
    _refused(path, "big-endian")


def test_a_zip_that_torch_did_not_write(tmp_path):
    path = tmp_path / "weights.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("folder/readme.txt", b"hello")
    _refused(path, "without data.pkl")


def test_a_pickle_that_torch_did_not_write(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(pickle.dumps({"a": 1}, protocol=2))
    _refused(path, "torch.save did not write")


def test_opcodes_that_import_call_or_build_otherwise_are_unknown():
    assert not {opcode.name for opcode in pickletools.opcodes} - _OPERATIONS.keys() - _REFUSED
    assert not _REFUSED & _OPERATIONS.keys()
