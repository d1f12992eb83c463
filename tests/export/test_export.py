"""export_onnx writes verified towers with everything that load needs, or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch

import clipfast
from clipfast.checkpoint import Checkpoint
from clipfast.errors import ConfigurationError, ParityError, UnsupportedError
from clipfast.export import text as text_author
from clipfast.export.onnx import export_onnx
from clipfast.runtimes.metadata import TowerMetadata
from tests.export.graphs import random_checkpoint
from tests.weights import random_weights, save_as, tiny, tiny_resnet


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return random_checkpoint(tiny())


def test_report_and_files(checkpoint: Checkpoint, tmp_path: Path) -> None:
    report = export_onnx(checkpoint, tmp_path / "out", dtype="fp16", batch=(1, 2, 5))
    folder = tmp_path / "out"
    assert sorted(file.name for file in folder.iterdir()) == [
        "export.json",
        "image.onnx",
        "text.onnx",
    ]
    stored = json.loads((folder / "export.json").read_text())
    assert stored["model"] == "tiny"
    for tower, entry in zip(report.towers, stored["towers"], strict=True):
        assert tower.bytes == (folder / f"{tower.tower}.onnx").stat().st_size
        assert entry["parity"]["passed"]
        assert entry["parity"]["cosine_min"] == tower.parity.cosine_min > 0.99999
        assert [batch["batch"] for batch in entry["parity"]["batches"]] == [1, 2, 5]
        assert tower.parity.neighbours > 0.9


def test_metadata_says_everything(checkpoint: Checkpoint, tmp_path: Path) -> None:
    export_onnx(checkpoint, tmp_path, tower="image", input="float", batch=(2, 3, 4))
    model = onnx.load(str(tmp_path / "image.onnx"))
    properties = {entry.key: entry.value for entry in model.metadata_props}
    described = TowerMetadata.from_properties(properties, "image.onnx")
    assert described.config == checkpoint.config
    assert described.fingerprint == checkpoint.fingerprint
    assert described.logit_scale == pytest.approx(100, rel=1e-6)
    assert (described.batch, described.pixels, described.dtype) == ((2, 3, 4), "float", "fp32")
    assert properties["clipfast.mean"] == "0.48145466,0.4578275,0.40821073"
    assert properties["clipfast.activation"] == "quick_gelu"
    assert (model.producer_name, model.opset_import[0].version) == ("clipfast", 20)
    assert model.doc_string == (
        "tiny image: pixel_values (batch, 3, 64, 64) float -> image_embeds (batch, 32) float, rows of unit length"
    )
    assert not (tmp_path / "text.onnx").exists()


def test_bfloat16_is_verified_through_its_twin(checkpoint: Checkpoint, tmp_path: Path) -> None:
    report = export_onnx(checkpoint, tmp_path, tower="text", dtype="bf16")
    (tower,) = report.towers
    assert "float32 twin with bf16-rounded weights" in tower.parity.compared
    assert 0.998 < tower.parity.cosine_min < 1 - 1e-7  # the rounding is there
    assert tower.opset == 22
    assert [file.name for file in tmp_path.iterdir()].count("text.onnx") == 1


def test_a_wrong_graph_is_not_written(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text tower that sees the future: everything about it is valid but its numbers."""
    monkeypatch.setattr(text_author, "HIDDEN", 0.0)
    with pytest.raises(
        ParityError, match=r"text tower, fp32, batch \d+: cosine 0\.\d+ .*nothing was"
    ):
        export_onnx(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_activations_beyond_float16_are_not_written(tmp_path: Path) -> None:
    config = tiny("gelu")
    tensors = random_weights(config)
    for part, factor in (("c_fc.weight", 1000.0), ("c_proj.weight", 1000.0)):
        tensors[f"visual.transformer.resblocks.0.mlp.{part}"] *= factor
    broken = Checkpoint(config, tensors, "random")
    (tmp_path / "kept.txt").write_text("kept")
    with pytest.raises(ParityError, match=r"image tower, fp16.*try dtype bf16"):
        export_onnx(broken, tmp_path, dtype="fp16")
    assert [file.name for file in tmp_path.iterdir()] == ["kept.txt"]
    report = export_onnx(broken, tmp_path, dtype="fp32")
    assert report.towers[0].parity.passed


def test_nothing_is_overwritten_unless_forced(checkpoint: Checkpoint, tmp_path: Path) -> None:
    export_onnx(checkpoint, tmp_path, tower="text")
    before = (tmp_path / "text.onnx").read_bytes()
    for stale in ("text.onnx.data", "text.engine", "text.engine.json"):
        (tmp_path / stale).write_bytes(b"old")
    with pytest.raises(ConfigurationError, match=r"text\.onnx exist already; pass force"):
        export_onnx(checkpoint, tmp_path, tower="text")
    export_onnx(checkpoint, tmp_path, tower="text", force=True)
    assert (tmp_path / "text.onnx").read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["export.json", "text.onnx"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tower": "audio"}, "tower='audio': expected one of image, text, both"),
        ({"dtype": "fp8"}, "dtype='fp8': expected one of fp32"),
        ({"input": "int8"}, "input='int8': expected one of uint8, float"),
        ({"target": "openvino"}, "target='openvino'"),
        ({"batch": (2, 1, 4)}, "1 <= smallest <= usual <= largest"),
        ({"batch": (0, 1, 4)}, "1 <= smallest"),
    ],
)
def test_options_are_checked_first(options, message, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=message):
        export_onnx(random_checkpoint(tiny()), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("config", [tiny(), tiny_resnet()], ids=["vit", "resnet"])
def test_model_exports_and_loads_again(config, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    source = save_as("openai_jit", random_weights(config), config, tmp_path / "weights")
    model = clipfast.load(source, precision="fp32", device="cpu")
    model.export_onnx(tmp_path / "out", batch=(1, 4, 16))
    exported = clipfast.load(tmp_path / "out", device="cpu", threads=2)
    assert (exported.backend, exported.precision) == ("onnxruntime", "fp32")
    assert exported.config == model.config
    assert exported.fingerprint == model.fingerprint
    size = config.vision.image_size
    images = torch.randint(0, 256, (19, 3, size, size), dtype=torch.uint8)
    texts = ["a dog", "a photo of a cat", "", "a dog", *(f"number {i}" for i in range(30))]
    for got, expected in (
        (exported.encode_images(images), model.encode_images(images)),
        (exported.encode_texts(texts), model.encode_texts(texts)),
    ):
        assert torch.cosine_similarity(got, expected).min() > 0.99999
    probabilities = exported.classify(images, ["dog", "cat"])
    assert torch.allclose(probabilities, model.classify(images, ["dog", "cat"]), atol=1e-3)
    with pytest.raises(UnsupportedError, match="normalize=False"):
        exported.encode_texts(texts, normalize=False)
    with pytest.raises(UnsupportedError, match="export from the weights"):
        exported.export_onnx(tmp_path / "again")
