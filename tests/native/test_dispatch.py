"""Which instruction set runs, what is refused with which sentence, and how the kernels share a process."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import clipfast
from clipfast.backends import cpu, select_ops
from clipfast.backends.reference import REFERENCE
from clipfast.errors import ConfigurationError, InputError, UnsupportedError
from clipfast.ops import OPERATIONS
from tests.native.kernels import kernels_for, needs_native, rows

pytestmark = needs_native
CPU = torch.device("cpu")


def test_the_processor_report_agrees_with_the_kernel() -> None:
    with Path("/proc/cpuinfo").open() as cpuinfo:
        flags = next(set(line.split()) for line in cpuinfo if line.startswith("flags"))
    expected = {name: name in flags for name in cpu.cpu_features()}
    assert cpu.cpu_features() == expected


@pytest.mark.parametrize("isa", ["serial", "avx2", "avx512", "avx512_bf16"])
def test_a_forced_instruction_set_runs_and_is_named(
    isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels_for(isa)
    monkeypatch.setenv("CLIPFAST_ISA", isa)
    ops = select_ops("cpu", device="cpu", dtype=torch.float32)
    assert ops.describe()["top_k"] == f"cpu ({isa})"
    queries, gallery = rows(4, 48, 0), rows(99, 48, 1)
    scores, _ = ops.top_k(queries, gallery, 5)
    assert torch.equal(scores, kernels_for(isa).top_k(queries, gallery, 5)[0])


def test_auto_takes_the_widest(monkeypatch: pytest.MonkeyPatch) -> None:
    from clipfast import _native

    monkeypatch.delenv("CLIPFAST_ISA", raising=False)
    assert cpu.isa() == _native.supported_isas()[-1]
    assert _native.supported_isas()[0] == "serial"


def test_an_instruction_set_the_processor_lacks_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("clipfast._native.supported_isas", lambda: ("serial", "avx2"))
    monkeypatch.setenv("CLIPFAST_ISA", "avx512")
    sentence = "CLIPFAST_ISA=avx512, but this processor has serial, avx2"
    assert cpu.unsupported_reason(CPU, torch.float32) == sentence
    with pytest.raises(UnsupportedError, match=sentence):
        select_ops("cpu", device=CPU, dtype=torch.float32)
    with pytest.raises(UnsupportedError, match=sentence):
        cpu.isa()


def test_serial_code_is_never_chosen_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipfast._native.supported_isas", lambda: ("serial",))
    monkeypatch.delenv("CLIPFAST_ISA", raising=False)
    reason = cpu.unsupported_reason(CPU, torch.float32)
    assert reason == "this processor lacks AVX2, and torch is faster than serial C++"
    monkeypatch.setenv("CLIPFAST_ISA", "serial")
    assert cpu.unsupported_reason(CPU, torch.float32) is None


def test_an_unknown_instruction_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPFAST_ISA", "sse9")
    with pytest.raises(
        ConfigurationError, match="CLIPFAST_ISA='sse9' is not known; expected one of auto"
    ):
        cpu.unsupported_reason(CPU, torch.float32)


def test_what_the_kernels_cannot_read_has_a_sentence() -> None:
    assert cpu.unsupported_reason(CPU, torch.bfloat16) is None
    assert cpu.unsupported_reason(CPU, torch.float64) == (
        "its kernels read float32, float16, bfloat16, not float64"
    )
    assert cpu.unsupported_reason(torch.device("meta"), torch.float32) == (
        "its kernels read host memory, not meta"
    )


def test_without_the_extension_the_reason_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cpu.unsupported_reason(CPU, torch.float32) == (
        "clipfast was built without the C++ extension"
    )
    assert select_ops("auto", device=CPU, dtype=torch.float32).name == "reference"


def test_what_is_borrowed_is_written_down() -> None:
    ops = cpu.make_ops()
    described = ops.describe()
    assert set(described) == set(OPERATIONS)
    for name in OPERATIONS:
        own = name in cpu.OWN_OPERATIONS
        assert described[name].startswith("cpu (" if own else "reference")
        assert (getattr(ops, name) is getattr(REFERENCE, name)) == (not own)
        reason = ops.unsupported_reason(name, device=CPU, dtype=torch.float64)
        assert (reason is None) == (not own)


ONES = torch.ones(3, 4)
REFUSALS = [
    (ONES.double(), ONES.double(), "wrong_type", "got torch.float64 on cpu"),
    (ONES.to("meta"), ONES.to("meta"), "wrong_type", "got torch.float32 on meta"),
    (ONES, ONES.half(), "wrong_type", "one dtype, got torch.float32 and torch.float16"),
    (ONES[0], ONES, "wrong_shape", r"got shape \(4,\), strides \(1,\)"),
    (ONES, ONES.T, "wrong_shape", r"got shape \(4, 3\), strides \(1, 4\)"),
    (ONES, torch.ones(3, 5), "wrong_shape", "one width E, got 4 and 5"),
]


@pytest.mark.parametrize(("queries", "keys", "code", "message"), REFUSALS)
def test_what_a_kernel_cannot_read_is_refused(
    queries: torch.Tensor, keys: torch.Tensor, code: str, message: str
) -> None:
    kernels = cpu.CosineKernels(cpu.isa())
    for call in (
        lambda: kernels.similarity(queries, keys, 1.0),
        lambda: kernels.top_k(queries, keys, 1),
    ):
        with pytest.raises(InputError, match=message) as caught:
            call()
        assert caught.value.code == code


def test_every_instruction_set_is_near_the_serial_definition() -> None:
    from clipfast import _native

    queries, gallery = rows(20, 512, 2), rows(2000, 512, 3)
    definition = cpu.CosineKernels("serial").top_k(queries, gallery, 50)[0]
    for isa in _native.supported_isas():
        scores = cpu.CosineKernels(isa).top_k(queries, gallery, 50)[0]
        difference = (scores - definition).abs().max().item()
        print(f"{isa}: {difference:.1e}")
        assert difference <= 4 * torch.finfo(torch.float32).eps


def test_calls_from_several_threads_equal_one_after_another() -> None:
    kernels = cpu.CosineKernels(cpu.isa())
    inputs = [(rows(5, 64, seed), rows(3000, 64, seed + 50)) for seed in range(24)]
    expected = [kernels.top_k(q, g, 10) for q, g in inputs]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda pair: kernels.top_k(*pair, 10), inputs))
    for (scores, indices), (scores_alone, indices_alone) in zip(results, expected, strict=True):
        assert torch.equal(scores, scores_alone)
        assert torch.equal(indices, indices_alone)


FORK = """
import os, signal, torch
from clipfast.backends.cpu import CosineKernels, isa
torch.manual_seed(0)
queries, gallery = torch.randn(6, 64), torch.randn(40000, 64)
kernels = CosineKernels(isa())
before = kernels.top_k(queries, gallery, 10)
child = os.fork()
if child == 0:
    signal.alarm(60)
    after = kernels.top_k(queries, gallery, 10)
    same = all(torch.equal(a, b) for a, b in zip(before, after))
    p = kernels.similarity(queries, gallery, 10.0)
    os._exit(0 if same and abs(sum(p[0].tolist()) - 1) < 1e-4 else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def test_a_forked_child_gets_the_same_bits_and_does_not_hang() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=120, env=environment)


def test_processors_that_saturate_products_of_bytes_have_no_int8(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx2": True})
    monkeypatch.setenv("CLIPFAST_ISA", "avx2")
    assert cpu.make_ops().quantise is None
    with pytest.raises(UnsupportedError, match="backend 'cpu' has no int8 kernels; Triton's run"):
        clipfast.load("demo", precision="int8", backend="cpu")
