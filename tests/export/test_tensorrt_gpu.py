"""Engines built, run, compared and timed on a GPU: `make test-tensorrt`."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import clipfast
from clipfast.config import ARCHITECTURES, ModelConfig
from clipfast.export.tensorrt import BuildSettings, build_engine
from clipfast.runtimes.engine_tower import EngineTower
from clipfast.runtimes.plan import read_plan_header, read_sidecar
from tests.export.graphs import images
from tests.weights import random_weights, reduced, save_as, tiny, tiny_resnet


def missing() -> str | None:
    """What keeps these tests from running here."""
    absent = [
        what
        for what, present in (
            ("TensorRT (pip install tensorrt-cu13)", find_spec("tensorrt") is not None),
            ("an NVIDIA GPU", torch.cuda.is_available()),
        )
        if not present
    ]
    return f"needs {' and '.join(absent)}, not here" if absent else None


pytestmark = [
    pytest.mark.tensorrt,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]

CONFIGS = {
    "vit": tiny(),
    "resnet": tiny_resnet(),
    "ViT-B-32": ARCHITECTURES["ViT-B-32"].with_activation("quick_gelu"),
    "ViT-L-14": reduced(ARCHITECTURES["ViT-L-14"], 4),
}


def exported(config: ModelConfig, folder: Path, dtype: str, **options) -> clipfast.Model:
    """A model on the GPU whose towers are exported to `folder`/export."""
    (folder / "weights").mkdir()
    source = save_as("open_clip_directory", random_weights(config), config, folder / "weights")
    model = clipfast.load(source, device="cuda", precision="fp32")
    model.export_onnx(folder / "export", dtype=dtype, target="tensorrt", **options)
    return model


def build_both(folder: Path, **options) -> list:
    return [
        build_engine(folder / "export" / f"{tower}.onnx", **options) for tower in ("image", "text")
    ]


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "int8"])
@pytest.mark.parametrize("name", CONFIGS)
def test_build_run_parity_and_timing(name: str, dtype: str, tmp_path: Path) -> None:
    model = exported(CONFIGS[name], tmp_path, dtype)
    for report in build_both(tmp_path):
        assert report.parity is not None
        assert report.parity.passed
        print(f"{name} {dtype}: {report.engine} {report.bytes / 1e6:.1f} MB in {report.seconds} s")
    engine = clipfast.load(tmp_path / "export", device="cuda")
    assert engine.backend == "tensorrt"
    rows = images(CONFIGS[name], 100).cuda()
    got, expected = engine.encode_images(rows), model.encode_images(rows)
    assert got.is_cuda
    assert torch.cosine_similarity(got, expected).min() > {"int8": 0.99}.get(dtype, 0.998)
    texts = ["a dog", "a photo of a cat", *(f"picture {i}" for i in range(70))]
    assert (
        torch.cosine_similarity(engine.encode_texts(texts), model.encode_texts(texts)).min() > 0.99
    )
    batch = rows[:64]
    for what, encode in (("engine", engine.encode_images), ("float32 torch", model.encode_images)):
        print(f"{name} {dtype} {what}: {64 / seconds(encode, batch):.0f} images/s")


def seconds(encode: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor) -> float:
    """Of one call, the mean of 20 after 5."""
    for _ in range(5):
        encode(batch)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(20):
        encode(batch)
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / 20


def test_cuda_graphs_streams_and_threads_change_no_bit(tmp_path: Path) -> None:
    exported(tiny(), tmp_path, "fp16", tower="image")
    path = tmp_path / "export" / "image.onnx"
    build_engine(path)
    plan = path.with_suffix(".engine")
    rows = images(tiny(), 150).cuda()
    device = torch.device("cuda", torch.cuda.current_device())
    plain = EngineTower(plan, device, cuda_graphs=False)(rows)
    graphed = EngineTower(plan, device)
    assert torch.equal(graphed(rows), plain)
    assert torch.equal(graphed(rows), plain)  # replayed
    assert torch.equal(graphed(rows.cpu()), plain)
    with torch.cuda.stream(torch.cuda.Stream()):
        own = graphed(rows)
    torch.cuda.synchronize()
    assert torch.equal(own, plain)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(out, plain) for out in pool.map(graphed, [rows] * 8))
    for count in (1, 3, 64, 65):
        assert torch.allclose(graphed(rows[:count]), plain[:count], atol=2e-3)
    assert graphed(rows[:0]).shape == (0, 32)


def test_profiles_cache_and_compatibility(tmp_path: Path) -> None:
    exported(tiny(), tmp_path, "fp16", tower="image")
    path, cache = tmp_path / "export" / "image.onnx", tmp_path / "timing.cache"
    settings = BuildSettings(
        profiles=((1, 8, 16), (16, 64, 128)),
        workspace=1 << 28,
        optimization_level=2,
        hardware_compatibility="ampere+",
        version_compatible=True,
    )
    first = build_engine(path, settings=settings, timing_cache=cache)
    assert cache.stat().st_size > 0
    again = build_engine(path, settings=settings, timing_cache=cache, force=True)
    print(f"build {first.seconds} s, with its timing cache {again.seconds} s")
    sidecar = read_sidecar(path.with_suffix(".engine"))
    assert sidecar.profiles == ((1, 8, 16), (16, 64, 128))
    assert sidecar.compute_capability == torch.cuda.get_device_capability()
    assert read_plan_header(path.with_suffix(".engine")).compiler == "TensorRT"


def test_stripped_weights_come_back(tmp_path: Path) -> None:
    exported(tiny(), tmp_path, "fp16", tower="text")
    path = tmp_path / "export" / "text.onnx"
    whole = build_engine(path)
    stripped = build_engine(path, settings=BuildSettings(strip_weights=True), force=True)
    assert stripped.bytes < whole.bytes / 2
    assert stripped.parity is not None
    assert stripped.parity.passed
