"""Every family through ONNX Runtime in fp32 and fp16: the real widths and heads, a few tokens, two blocks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from clipfast.backends.reference import REFERENCE
from clipfast.config import ARCHITECTURES, ModelConfig
from clipfast.encoder import TowerEncoder
from clipfast.export.onnx import check_graph
from clipfast.inputs.packing import pack_tokens, plan_texts
from clipfast.parameters import Parameters
from clipfast.runtimes.metadata import ExportTarget, TowerName
from clipfast.runtimes.onnxruntime import OnnxTower
from tests.export.graphs import images, narrow, random_parameters, tokens, write_tower
from tests.tolerances import EXPORT_COSINE_FP16, EXPORT_COSINE_FP32
from tests.weights import reduced, tiny, tiny_resnet

CPU = torch.device("cpu")
BATCHES = (1, 2, 7)
LIMITS = {"fp32": EXPORT_COSINE_FP32, "fp16": EXPORT_COSINE_FP16}


def inputs(config: ModelConfig, tower: TowerName) -> torch.Tensor:
    return images(config, max(BATCHES)) if tower == "image" else tokens(config, max(BATCHES))


def reference(
    config: ModelConfig, parameters: Parameters, tower: TowerName, rows: torch.Tensor
) -> torch.Tensor:
    """Unit rows of our towers in plain torch, float32; texts packed to their EOT."""
    encoder = TowerEncoder(config, parameters, REFERENCE, CPU)
    if tower == "image":
        return F.normalize(encoder.encode_pixels(rows))
    out = torch.empty(len(rows), config.embed_dim)
    packed = pack_tokens(rows.numpy(), config.text.eot_id)
    for batch in plan_texts(packed, max_rows=4096, share_prefixes=False):
        out[torch.from_numpy(batch.texts)] = encoder.encode_texts(batch)[
            torch.from_numpy(batch.unique)
        ]
    return F.normalize(out)


def check(config: ModelConfig, target: ExportTarget, folder: Path, **form: bool) -> None:
    parameters = random_parameters(config)
    for tower in ("image", "text"):
        rows = inputs(config, tower)
        expected = reference(config, parameters, tower, rows)
        for dtype, limit in LIMITS.items():
            path = write_tower(folder, config, parameters, tower, dtype, target, **form)
            check_graph(path)
            run = OnnxTower(path, CPU, threads=2)
            worst = min(
                float(torch.cosine_similarity(run(rows[:batch]), expected[:batch]).min())
                for batch in BATCHES
            )
            print(f"{config.name} {tower} {dtype} {target}: 1 - cosine {1 - worst:.2e}")
            assert worst > limit


# Families that differ only in image size are one family here.
NARROW = {replace(narrow(config), name=""): narrow(config) for config in ARCHITECTURES.values()}


@pytest.mark.parametrize("config", NARROW.values(), ids=lambda config: config.name)
def test_family(config: ModelConfig, tmp_path: Path) -> None:
    check(config, "onnxruntime", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_with_all_its_tokens(name: str, tmp_path: Path) -> None:
    check(reduced(ARCHITECTURES[name]), "onnxruntime", tmp_path)


@pytest.mark.parametrize(
    "config",
    [tiny("gelu"), tiny("quick_gelu"), tiny_resnet()],
    ids=["gelu", "quick_gelu", "resnet"],
)
def test_form_for_tensorrt(config: ModelConfig, tmp_path: Path) -> None:
    check(config, "tensorrt", tmp_path)


def test_layer_norm_in_the_graphs_own_dtype(tmp_path: Path) -> None:
    check(tiny(), "onnxruntime", tmp_path, layer_norm_fp32=False)


def test_tokens_after_the_first_eot_change_nothing(tmp_path: Path) -> None:
    config = tiny()
    path = write_tower(tmp_path, config, random_parameters(config), "text")
    run = OnnxTower(path, CPU, threads=2)
    clean = tokens(config, 4)
    dirty = clean.clone()
    for row in dirty:
        end = int((row == config.text.eot_id).nonzero()[0])
        row[end + 1 :] = config.text.eot_id  # as transformers pads
    assert torch.equal(run(clean), run(dirty))
