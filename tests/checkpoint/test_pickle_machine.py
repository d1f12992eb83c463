"""The pickle machine against Python's own on data, and against random damage."""

from __future__ import annotations

import contextlib
import io
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipfast.checkpoint.pickle_machine import PickleRefusedError, run_pickle
from clipfast.checkpoint.state_dict import tensor_references, wrapper_prefix
from clipfast.errors import CheckpointError
from tests.checkpoint.archives import assemble, tensor_pickle

_SCALARS = (
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False)
    | st.text()
    | st.integers(-(2**80), 2**80)
)
_KEYS = st.text() | st.integers(-(2**31) + 1, 2**31 - 1)
_DATA = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(_KEYS, inner, max_size=5)
    ),
    max_leaves=30,
)


@settings(max_examples=300, deadline=None)
@given(data=_DATA, protocol=st.sampled_from([2, 3, 4, 5]))
def test_plain_data_is_what_python_reads(data, protocol):
    pickled = pickle.dumps(data, protocol=protocol)
    assert run_pickle(io.BytesIO(pickled)).value == pickle.loads(pickled) == data


@settings(max_examples=500, deadline=None)
@given(
    position=st.integers(0, 10**6), replacement=st.binary(min_size=1, max_size=4), cut=st.booleans()
)
def test_damaged_pickles_raise_nothing_else(position, replacement, cut):
    pickled = bytearray(tensor_pickle())
    start = position % len(pickled)
    pickled[start : start + len(replacement)] = replacement
    if cut:
        del pickled[start:]
    with contextlib.suppress(CheckpointError):
        tensor_references(run_pickle(io.BytesIO(bytes(pickled))).value)


@settings(max_examples=500, deadline=None)
@given(program=st.binary(max_size=200))
def test_random_programs_raise_nothing_else(program):
    with contextlib.suppress(PickleRefusedError):
        run_pickle(io.BytesIO(b"\x80\x02" + program))


def test_the_stream_ends_after_stop():
    stream = io.BytesIO(pickle.dumps(1, protocol=2) + b"rest")
    assert run_pickle(stream).value == 1
    assert stream.read() == b"rest"


def test_a_memo_index_costs_no_memory():
    """Python's own unpickler allocates a table as long as the largest index."""
    assert (
        run_pickle(
            io.BytesIO(assemble("X a put 4294967295 get 4294967295 t".replace(" t", "")))
        ).value
        == "a"
    )


def test_a_storage_described_twice():
    one, two = tensor_pickle(numel=4)[2:-1], tensor_pickle(numel=5)[2:-1]
    with pytest.raises(PickleRefusedError, match="described twice"):
        run_pickle(io.BytesIO(b"\x80\x02" + one + two + b"."))


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (["module.a", "module.b"], "module."),
        (["module._orig_mod.a", "module._orig_mod.b"], "module._orig_mod."),
        (["_orig_mod.module.a"], "_orig_mod.module."),
        (["module.a", "b"], ""),
        (["modulea.b"], ""),
        ([], ""),
    ],
)
def test_prefixes_of_wrappers(names, prefix):
    assert wrapper_prefix(names) == prefix
