"""Exports in ONNX Runtime: any batch, any thread, and a sentence for everything that cannot be."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from clipfast.errors import CheckpointError, ConfigurationError, DependencyError, UnsupportedError
from clipfast.export import onnx_file
from clipfast.inputs.packing import pack_tokens, plan_texts
from clipfast.runtimes.encoder import RuntimeEncoder, unpack
from clipfast.runtimes.load import is_export, load_runtime
from clipfast.runtimes.onnxruntime import OnnxTower
from tests.export.graphs import images, random_parameters, tokens, write_tower
from tests.runtimes.plans import write_plan
from tests.weights import tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    parameters = random_parameters(tiny())
    for tower in ("image", "text"):
        write_tower(folder, tiny(), parameters, tower)
    return folder


def test_more_rows_than_the_largest_batch(folder: Path) -> None:
    tower = OnnxTower(folder / "image.onnx", CPU, threads=2)
    rows = images(tiny(), 70)  # the largest batch is 32
    together = tower(rows)
    apart = torch.cat([tower(row[None]) for row in rows])
    assert torch.allclose(together, apart, atol=1e-6)
    assert tower(rows[:0]).shape == (0, 32)
    assert torch.allclose(together.norm(dim=1), torch.ones(70), atol=1e-6)


def test_strided_rows_and_repeated_calls_give_the_same_bits(folder: Path) -> None:
    tower = OnnxTower(folder / "image.onnx", CPU, threads=2)
    rows = images(tiny(), 8)
    assert torch.equal(tower(rows)[::2], tower(rows)[::2])
    strided = rows.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(tower(strided), tower(rows))


def test_threads_share_a_session(folder: Path) -> None:
    tower = OnnxTower(folder / "text.onnx", CPU, threads=1)
    rows = tokens(tiny(), 24)
    serial = [tower(row[None]) for row in rows]
    with ThreadPoolExecutor(6) as pool:
        parallel = list(pool.map(lambda row: tower(row[None]), rows))
    assert all(torch.equal(a, b) for a, b in zip(serial, parallel, strict=True))


def test_packed_texts_are_unpacked(folder: Path) -> None:
    ids = tokens(tiny(), 9).numpy()
    packed = pack_tokens(ids, tiny().text.eot_id)
    (batch,) = plan_texts(packed, max_rows=4096, share_prefixes=False)
    assert np.array_equal(unpack(batch, 77)[batch.unique], ids[batch.texts])


def test_float_exports_take_uint8_pixels_too(tmp_path: Path, folder: Path) -> None:
    from clipfast.checkpoint import Checkpoint
    from clipfast.export.onnx import export_onnx
    from tests.weights import random_weights

    checkpoint = Checkpoint(tiny(), random_weights(tiny()), "random")
    export_onnx(checkpoint, tmp_path, tower="image", input="float", batch=(1, 2, 4))
    encoder, _ = load_runtime(tmp_path, device=CPU)
    pixels = images(tiny(), 3)
    expected = OnnxTower(folder / "image.onnx", CPU)(pixels)
    assert torch.cosine_similarity(encoder.encode_pixels(pixels), expected).min() > 0.99999
    with pytest.raises(UnsupportedError, match="holds only the image tower"):
        encoder.encode_texts(None)
    uint8 = load_runtime(folder, device=CPU)[0]
    with pytest.raises(UnsupportedError, match=r"exported for uint8 pixels and got torch\.float32"):
        uint8.encode_pixels(pixels.float())


def test_cuda_is_refused_where_the_provider_is_missing(folder: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("the CUDA provider is here")
    with pytest.raises(
        DependencyError, match=r"no CUDAExecutionProvider; pip install onnxruntime-gpu"
    ):
        OnnxTower(folder / "image.onnx", torch.device("cuda", 0))


def test_bfloat16_is_refused_on_the_cpu(tmp_path: Path) -> None:
    path = write_tower(tmp_path, tiny(), random_parameters(tiny()), "image", "bf16")
    with pytest.raises(UnsupportedError, match="bfloat16 runs on CUDA only"):
        OnnxTower(path, CPU)


def test_broken_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "image.onnx").write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match="cannot read it"):
        OnnxTower(tmp_path / "image.onnx", CPU)
    monkeypatch.setattr(onnx_file, "EXTERNAL_DATA_BYTES", 0)
    path = write_tower(tmp_path, tiny(), random_parameters(tiny()), "text")
    (tmp_path / "text.onnx.data").unlink()
    with pytest.raises(CheckpointError, match=r"text\.onnx\.data"):
        OnnxTower(path, CPU)


def test_a_graph_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    node = helper.make_node("Relu", ["x"], ["y"])
    model = helper.make_model(
        helper.make_graph([node], "g", value[:1], value[1:]),
        ir_version=10,
        opset_imports=[helper.make_opsetid("", 20)],
    )
    onnx.save(model, tmp_path / "image.onnx")
    with pytest.raises(CheckpointError, match="expected clipfast metadata of format 1, got none"):
        OnnxTower(tmp_path / "image.onnx", CPU)


def test_towers_of_two_models_are_refused(folder: Path, tmp_path: Path) -> None:
    config = tiny("gelu")
    write_tower(tmp_path, config, random_parameters(config), "text")
    towers = {
        "image": OnnxTower(folder / "image.onnx", CPU),
        "text": OnnxTower(tmp_path / "text.onnx", CPU),
    }
    with pytest.raises(CheckpointError, match="come from different weights"):
        RuntimeEncoder(towers, CPU, "here")


def test_what_an_export_is(folder: Path, tmp_path: Path) -> None:
    assert is_export(folder)
    assert is_export(folder / "text.onnx")
    assert is_export(str(folder))
    assert not is_export(tmp_path)
    assert not is_export("ViT-B/32")
    write_plan(tmp_path / "image.engine")
    assert is_export(tmp_path)


def test_one_file_brings_its_sibling_along(folder: Path, tmp_path: Path) -> None:
    encoder, runtime = load_runtime(folder / "image.onnx", device=CPU)
    assert runtime == "onnxruntime"
    assert encoder.encode_pixels(images(tiny(), 1)).shape == (1, 32)
    assert set(encoder._towers) == {"image", "text"}
    renamed = tmp_path / "mine.onnx"
    renamed.write_bytes((folder / "text.onnx").read_bytes())
    assert set(load_runtime(renamed, device=CPU)[0]._towers) == {"text"}


def test_the_runtime_must_fit_the_file(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="is for onnxruntime, not for backend='tensorrt'"):
        load_runtime(folder / "image.onnx", runtime="tensorrt", device=CPU)
    with pytest.raises(ConfigurationError, match="one of auto, onnxruntime, tensorrt"):
        load_runtime(folder, runtime="cpu", device=CPU)
    with pytest.raises(CheckpointError, match=r"holds neither image\.engine nor text\.engine"):
        load_runtime(folder, runtime="tensorrt", device=CPU)
