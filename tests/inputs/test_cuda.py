"""Batches that live on a GPU stay there, with the same bits as on the host."""

import numpy as np
import pytest
import torch
from PIL import Image

from clipfast.config import PreprocessConfig
from clipfast.inputs import image_batches
from tests.inputs.oracles import reference_pixels

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("shape", [(24, 24), (97, 61), (31, 200), (300, 20)])
def test_uint8_batches_stay_on_their_device(shape, layout):
    images = np.random.default_rng(0).integers(0, 256, (7, *shape, 3), dtype=np.uint8)
    batch = torch.from_numpy(images if layout == "NHWC" else images.transpose(0, 3, 1, 2)).cuda()
    indices = []
    for part in image_batches(batch, PreprocessConfig(), 24, batch_size=3):
        assert part.pixels.is_cuda
        for index, pixels in zip(part.indices, part.pixels.cpu().numpy(), strict=True):
            expected = reference_pixels(Image.fromarray(images[index]), 24)
            np.testing.assert_array_equal(pixels.transpose(1, 2, 0), expected)
        indices += part.indices
    assert indices == list(range(7))


def test_normalised_batches_stay_on_their_device():
    batch = torch.randn(5, 3, 24, 24, device="cuda")
    batch[3, 0, 0, 0] = torch.inf
    for source in (batch, list(batch)):
        parts = list(image_batches(source, PreprocessConfig(), 24, batch_size=4))
        assert [failure.index for part in parts for failure in part.failures] == [3]
        pixels = torch.cat([part.pixels for part in parts if len(part.pixels)])
        assert pixels.is_cuda
        assert torch.equal(pixels, batch[[0, 1, 2, 4]])


def test_single_images_on_the_device():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    (part,) = image_batches(
        [torch.from_numpy(image).cuda(), image], PreprocessConfig(), 24, batch_size=2
    )
    assert torch.equal(part.pixels[0], part.pixels[1])
