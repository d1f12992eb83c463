"""What calibration measures, where it is kept, and what "auto" makes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import clipfast
from clipfast.calibration import LEAST_COSINE
from clipfast.checkpoint.source import DEMO_DIRECTORY
from clipfast.errors import ConfigurationError, UnsupportedError
from clipfast.loading import unsupported_precision

pytestmark = pytest.mark.skipif(
    unsupported_precision("int8", torch.device("cpu")) is not None,
    reason="this processor has no products of bytes",
)
TEXTS = ["a red circle", "a small blue square on white", "the digit seven"]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The demo's weights in a folder that can be written to."""
    return Path(shutil.copytree(DEMO_DIRECTORY, tmp_path / "demo"))


@pytest.fixture(scope="module")
def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (8, 6, 6, 3), generator=generator, dtype=torch.uint8)
    return [image.repeat_interleave(9, 0).repeat_interleave(7, 1) for image in coarse]


@pytest.fixture
def kept(weights: Path, images: list[torch.Tensor]) -> Path:
    """The file that a calibration of `weights` leaves."""
    cosines = clipfast.load(weights, device="cpu").calibrate(images, TEXTS)
    print(cosines)
    assert set(cosines["int8"]) == {"images", "texts"}
    assert all(0.9 < cosine < 1 + 1e-6 for cosine in cosines["int8"].values())
    (path,) = weights.glob("*.calibration.json")
    assert json.loads(path.read_text())["lowest_cosines_to_fp32"] == cosines
    return path


def _set(path: Path, **changed: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_the_cosines_are_those_of_the_rows(kept: Path, weights: Path, images) -> None:
    exact, int8 = (clipfast.load(weights, device="cpu", precision=p) for p in ("fp32", "int8"))
    rows = [model.encode_images(images).double() for model in (exact, int8)]
    expected = torch.cosine_similarity(*rows).min().item()
    cosines = json.loads(kept.read_text())["lowest_cosines_to_fp32"]["int8"]
    assert cosines["images"] == pytest.approx(expected, abs=1e-6)


def test_auto_takes_what_costs_little(kept: Path, weights: Path) -> None:
    usual = clipfast.load("demo", device="cpu").precision
    for images, texts, expected in (
        (LEAST_COSINE, 1.0, "int8"),
        (LEAST_COSINE - 1e-4, 1.0, usual),
        (1.0, LEAST_COSINE - 1e-4, usual),
    ):
        _set(kept, lowest_cosines_to_fp32={"int8": {"images": images, "texts": texts}})
        assert clipfast.load(weights, device="cpu").precision == expected
        assert clipfast.load(weights, device="cpu", precision="fp32").precision == "fp32"
    _set(kept, lowest_cosines_to_fp32={"fp8": {"images": 1.0, "texts": 1.0}})
    assert clipfast.load(weights, device="cpu").precision == usual


def test_a_backend_without_it_keeps_its_precision(kept: Path, weights: Path, images) -> None:
    _set(kept, lowest_cosines_to_fp32={"int8": {"images": 1.0, "texts": 1.0}})
    plain = clipfast.load(weights, device="cpu", backend="reference")
    assert plain.precision != "int8"
    with pytest.raises(UnsupportedError, match="reference on cpu serves no 8-bit precision"):
        plain.calibrate(images, TEXTS)


def test_other_weights_in_its_place_are_not_calibrated(kept: Path, weights: Path) -> None:
    _set(kept, lowest_cosines_to_fp32={"int8": {"images": 1.0, "texts": 1.0}}, fingerprint="0" * 64)
    assert clipfast.load(weights, device="cpu").precision != "int8"


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"lowest_cosines_to_fp32": {"int8": 1}}'])
def test_a_damaged_file_is_named(weights: Path, kept: Path, content: str) -> None:
    kept.write_text(content)
    with pytest.raises(ConfigurationError, match=r"calibration\.json is damaged"):
        clipfast.load(weights, device="cpu")


def test_what_cannot_be_calibrated(weights: Path, images) -> None:
    model = clipfast.load(weights, device="cpu")
    for given in (([], TEXTS), (images, [])):
        with pytest.raises(ConfigurationError, match="needs images and texts"):
            model.calibrate(*given)
    (file,) = weights.glob("*.safetensors")
    file.with_name(f"{file.name}.calibration.json").mkdir()
    with pytest.raises(ConfigurationError, match="cannot write"):
        model.calibrate(images, TEXTS)


def test_an_export_keeps_its_precision(tmp_path: Path, images) -> None:
    clipfast.load("demo").export_onnx(tmp_path)
    with pytest.raises(UnsupportedError, match="whose precision is fixed"):
        clipfast.load(tmp_path).calibrate(images, TEXTS)
