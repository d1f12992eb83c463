"""ONNX files on disk: the same bytes every time, weights inside or beside the graph, names that mean something."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from clipfast.errors import UnsupportedError
from clipfast.export import onnx_file
from clipfast.export.graph import Graph
from clipfast.runtimes.onnxruntime import OnnxTower
from tests.export.graphs import images, random_parameters, write_tower
from tests.weights import tiny, tiny_resnet

CPU = torch.device("cpu")


@pytest.mark.parametrize("config", [tiny(), tiny_resnet()], ids=["vit", "resnet"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_writing_again_gives_the_same_bytes(config, dtype, tmp_path: Path) -> None:
    for tower in ("image", "text"):
        written = []
        for attempt in ("first", "second"):
            folder = tmp_path / attempt
            folder.mkdir(exist_ok=True)
            written.append(write_tower(folder, config, random_parameters(config), tower, dtype))
        assert written[0].read_bytes() == written[1].read_bytes()


def test_external_data_holds_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny()
    parameters = random_parameters(config)
    inside = OnnxTower(write_tower(tmp_path, config, parameters, "image"), CPU)
    monkeypatch.setattr(onnx_file, "EXTERNAL_DATA_BYTES", 1_000_000)
    folder = tmp_path / "external"
    folder.mkdir()
    path = write_tower(folder, config, parameters, "image")
    data = folder / "image.onnx.data"
    assert data.stat().st_size > 1_000_000 > path.stat().st_size
    rows = images(config, 3)
    assert torch.equal(OnnxTower(path, CPU)(rows), inside(rows))
    for tensor in onnx.load(str(path), load_external_data=False).graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries:
            assert entries["location"] == data.name
            assert int(entries["offset"]) % 4096 == 0
    onnx.checker.check_model(str(path), full_check=True)


def test_only_the_batch_is_dynamic_and_every_node_is_named(tmp_path: Path) -> None:
    config = tiny()
    path = write_tower(tmp_path, config, random_parameters(config), "image", "fp16")
    graph = onnx.shape_inference.infer_shapes(onnx.load(str(path)), strict_mode=True).graph
    shapes = [
        [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    ]
    assert shapes == [["batch", 3, 64, 64], ["batch", 32]]
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    assert {"patch_embed/conv", "resblocks.0/attn/softmax", "resblocks.1/mlp/c_fc/matmul"} <= set(
        names
    )
    assert not {"Shape", "Expand", "ConstantOfShape"} & {node.op_type for node in graph.node}


def test_half_precision_stores_half_the_bytes(tmp_path: Path) -> None:
    config = tiny()
    parameters = random_parameters(config)
    sizes = [
        write_tower(tmp_path, config, parameters, "text", dtype).stat().st_size
        for dtype in ("fp32", "fp16", "bf16")
    ]
    assert sizes[0] / sizes[1] == pytest.approx(2, rel=0.01)
    assert sizes[1] == pytest.approx(sizes[2], rel=0.01)


def test_a_weight_beyond_float16_is_an_error_that_names_it() -> None:
    graph = Graph("g", torch.float16)
    with pytest.raises(UnsupportedError, match=r"resblocks\.0/mlp holds 7e\+04.*bf16 or fp32"):
        graph.constant("resblocks.0/mlp", torch.tensor([1.0, -70000.0]))
