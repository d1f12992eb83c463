from __future__ import annotations

import json
import os
from dataclasses import replace
from importlib.metadata import version

import pytest
import torch

import clipfast
from clipfast.backends import BACKENDS, triton, unsupported_reason
from clipfast.cli import doctor, main
from clipfast.errors import UnsupportedError


def test_doctor_tells_versions_hardware_and_reasons(monkeypatch, capsys):
    monkeypatch.setenv("CLIPFAST_MODEL", "demo")
    assert main(["doctor", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert findings["versions"]["torch"] == version("torch")
    assert findings["cpu"]["usable processors"] == len(os.sched_getaffinity(0))
    assert findings["environment"]["CLIPFAST_MODEL"] == "demo"
    assert "hugging face hub" in findings["caches"]
    assert findings["backends"]["reference on cpu"] == "serves fp32, bf16, fp16"
    for backend in BACKENDS:
        reason = unsupported_reason(backend, device=torch.device("cpu"), dtype=torch.float32)
        finding = findings["backends"][f"{backend} on cpu"]
        assert (reason in finding) if reason else finding.startswith("serves fp32")


def test_doctor_reads_for_people_too(capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    sections = [line for line in lines if not line.startswith(" ")]
    assert sections == ["versions", "cpu", "gpu", "backends", "precisions", "environment", "caches"]


def test_doctor_tells_the_precisions_that_load_takes(monkeypatch):
    found = doctor.diagnose()["precisions"]
    assert len(found) == 1 + torch.cuda.device_count()
    for device, finding in found.items():
        served = finding.split(";")[0].removeprefix("serves ").split(", ")
        for precision in ("fp32", "bf16", "fp16", "int8", "fp8"):
            if precision in served:
                clipfast.load("demo", device=device, precision=precision)
            else:
                with pytest.raises(UnsupportedError) as refused:
                    clipfast.load("demo", device=device, precision=precision)
                assert str(refused.value) in finding
    if found["cpu"].startswith("serves fp32, bf16, fp16, int8"):
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx2": True})
        monkeypatch.setenv("CLIPFAST_ISA", "avx2")
        without = doctor.diagnose()["precisions"]["cpu"]
        assert without.startswith("serves fp32, bf16, fp16; precision 'int8' cannot be served")


def test_doctor_tells_what_is_wrong_with_the_backend_that_was_asked_for(monkeypatch):
    monkeypatch.setenv("CLIPFAST_BACKEND", "no-such-backend")
    assert "CLIPFAST_BACKEND='no-such-backend'" in doctor.diagnose()["precisions"]["cpu"]


@pytest.mark.parametrize(
    ("architecture", "served"), [(75, []), (80, ["int8"]), (89, ["int8", "fp8"])]
)
def test_doctor_tells_what_a_gpu_multiplies(architecture, served, monkeypatch):
    """On a GPU that this machine need not have: where Triton serves, its architecture decides."""
    # Imports the kernels' package, and Triton's interpreter is tests/kernels' to choose.
    from clipfast.kernels.hardware import hardware_of

    hardware = replace(hardware_of(torch.device("cpu")), architecture=architecture)
    monkeypatch.setattr("clipfast.kernels.hardware.hardware_of", lambda device: hardware)
    monkeypatch.setattr("clipfast.loading.compute_dtype", lambda *_: torch.bfloat16)
    monkeypatch.setattr("clipfast.loading.select_ops", lambda *_, **__: triton.make_ops())
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    finding = doctor._precisions()["cuda:0"]
    assert finding.split(";")[0].split(", ")[3:] == served
    for name, first in (("int8", "8.0"), ("fp8", "8.9")):
        refusal = f"{name} products need compute capability {first} or newer"
        assert (refusal in finding) == (name not in served)


def test_doctor_says_what_is_not_installed():
    assert doctor._version("no-such-package") == "not installed"


def test_models_lists_what_loads_by_name(capsys):
    assert main(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == clipfast.available_models()
    by_name = {row["name"]: row for row in rows}
    assert by_name["ViT-L/14@336px"]["pixels"] == 336
    assert by_name["ViT-B/32"]["activation"] == "quick_gelu"


def test_models_filters(capsys):
    assert main(["models", "vit-b/"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "pixels", "width", "activation", "weights"]
    assert [row.split()[0] for row in rows] == ["ViT-B/32", "ViT-B/16"]
