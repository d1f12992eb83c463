from __future__ import annotations

import json
import os
from importlib.metadata import version

import torch

import clipfast
from clipfast.backends import BACKENDS, unsupported_reason
from clipfast.cli import doctor, main


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
    assert sections == ["versions", "cpu", "gpu", "backends", "environment", "caches"]


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
