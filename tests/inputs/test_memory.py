"""Peak memory of inputs that could take gigabytes, measured in a process of its own."""

import json
import subprocess
import sys

import pytest

from clipfast.config import ARCHITECTURES
from tests.inputs import broken_files as files
from tests.weights import random_weights, reduced, save_as

SCRIPT = """
import json, re, sys
from pathlib import Path
import numpy as np
from PIL import Image
import clipfast
from clipfast.config import PreprocessConfig
from clipfast.inputs import image_batches, preprocess_image
from tests.inputs.broken_files import encoded, photo

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text()).group(1)) / 1024

def growth(call, *arguments):
    Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on
    before = peak()
    call(*arguments)
    return peak() - before

def preprocess(image):
    preprocess_image(image, PreprocessConfig(), 224)

def refuse(path, code="image_too_large"):
    (batch,) = image_batches([path], PreprocessConfig(), 32, batch_size=1)
    assert [failure.code for failure in batch.failures] == [code]

assert growth(np.ones, 20 * 2**17) > 19  # MB: this does see what is allocated
column = np.random.default_rng(0).integers(0, 256, (60000, 1, 3), dtype=np.uint8)
images = [Image.fromarray(np.ascontiguousarray(pixels)).convert(mode)
          for pixels in (column, column.transpose(1, 0, 2)) for mode in ("RGB", "L", "P", "RGBA", "CMYK", "I", "F")]
preprocess(Image.new("RGB", (300, 300)))
preprocessing = [growth(preprocess, image) for image in images]

folder = Path(sys.argv[1])
refuse(folder / "none", "unidentified_image")
refusing = [growth(refuse, path) for path in sorted(folder.glob("huge-*"))]

model = clipfast.load(sys.argv[2], device="cpu", precision="fp32")
sizes = [(1, 60000), (60000, 1), (2, 30000), (3, 5000)]
sources = [encoded(photo(*size), name) for size in sizes for name in ("PNG", "JPEG")]
model.encode_images([encoded(photo(640, 427), name) for name in ("PNG", "JPEG")], batch_size=1)
embedding = [growth(model.encode_images, [source]) for source in sources]
print(json.dumps({"preprocessing": preprocessing, "refusing": refusing, "embedding": embedding}))
"""


@pytest.fixture(scope="module")
def growths(tmp_path_factory):
    """Megabytes that the peak of resident memory grew by."""
    folder = tmp_path_factory.mktemp("images")
    kinds = (files.png, files.jpeg_claiming, files.gif_claiming, files.tiff_claiming)
    for index, kind in enumerate(kinds):
        (folder / f"huge-{index}").write_bytes(kind(65_500, 65_500))
    (folder / "none").write_bytes(b"no image")
    config = reduced(ARCHITECTURES["ViT-B-32"])
    weights = random_weights(config, seed=0)
    source = save_as("hf", weights, config, tmp_path_factory.mktemp("weights"))
    output = subprocess.run(
        [sys.executable, "-c", SCRIPT, folder, source], check=True, capture_output=True, text=True
    ).stdout
    print(output)
    return json.loads(output)


def test_preprocessing_extreme_aspect_ratios(growths):
    """1 x 60000 and 60000 x 1 in seven modes: the reference needs 9 GB, the crop alone little."""
    assert len(growths["preprocessing"]) == 14
    assert max(growths["preprocessing"]) < 50  # 6 measured


def test_embedding_extreme_aspect_ratios(growths):
    """The same from encoded bytes, through a tower of ViT-B/32's widths."""
    assert len(growths["embedding"]) == 8
    assert max(growths["embedding"]) < 50


def test_refusing_a_huge_header_allocates_nothing(growths):
    assert len(growths["refusing"]) == 4
    assert max(growths["refusing"]) < 2  # of 12 GB that the headers claim
