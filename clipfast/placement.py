"""A model on its device: batches that fill it, from the products in its blocks, and the way of images through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from clipfast.config import ResNetConfig, TextConfig, VisionTransformerConfig
from clipfast.device import (
    Batching,
    CudaLayer,
    DeviceImages,
    DeviceLayer,
    MemoryLimit,
    Product,
    token_budget,
)
from clipfast.device.pipeline import Pipeline, Rows
from clipfast.encoder import Encoder, TowerEncoder
from clipfast.ops import Tensor

MOST_IMAGES = 256
# A ResNet's batch, as pixels: convolutions fill a device whatever the batch, and feature maps are large.
RESNET_PIXELS = 128 * 224 * 224
MOST_TEXT_ROWS = 65536
# Images of a batch that lives on the device, looked at together: a slice of it is no copy.
_DEVICE_SLICE = 1024
# What DLPack calls host memory: plain, and pinned.
_DLPACK_HOST = (1, 3)


class Passage(Protocol):
    """The way of one call's images through an encoder."""

    @property
    def batch(self) -> int:
        """Images a batch."""
        ...

    @property
    def allocate(self) -> Callable[[int], Tensor] | None:
        """Makes uint8 rows to decode into; None where any memory is as good."""
        ...

    def put(self, indices: list[int], pixels: Tensor) -> Iterator[Rows]:
        """Takes a batch, and gives what is finished: positions, and their rows, valid until the next ones."""
        ...

    def finish(self) -> Iterator[Rows]:
        """What is still under way."""
        ...


@dataclass(frozen=True)
class InThread:
    """Every batch is computed by the caller, at once."""

    batch: int
    encode: Callable[[Tensor], Tensor]

    @property
    def allocate(self) -> None:
        return None

    def put(self, indices: list[int], pixels: Tensor) -> Iterator[Rows]:
        yield indices, self.encode(pixels)

    def finish(self) -> Iterator[Rows]:
        return iter(())


@dataclass
class OnDevice:
    """Batches of the host go through a pipeline, made for the first of them; those of the device stay there."""

    images: DeviceImages
    normalize: bool
    batch_size: int | None
    batch: int
    _stack: ExitStack
    _pipeline: Pipeline | None = field(default=None, init=False)

    def allocate(self, count: int) -> Tensor:
        pipeline = self._made()
        if count <= pipeline.batch:
            return pipeline.allocate(count)
        return torch.empty((count, *self.images.shape), dtype=torch.uint8)

    def put(self, indices: list[int], pixels: Tensor) -> Iterator[Rows]:
        if pixels.dtype != torch.uint8 or pixels.device.type != "cpu":
            yield indices, self._run(pixels.to(self.images.layer.device))
            return
        pipeline = self._made()
        for at in range(0, max(1, len(pixels)), pipeline.batch):
            part = slice(at, at + pipeline.batch)
            yield from pipeline.put(self._run, indices[part], pixels[part])

    def finish(self) -> Iterator[Rows]:
        return iter(()) if self._pipeline is None else self._pipeline.finish()

    def _run(self, pixels: Tensor) -> Tensor:
        return self.images.run(pixels, self.normalize, self.batch_size)

    def _made(self) -> Pipeline:
        if self._pipeline is None:
            self._pipeline = self._stack.enter_context(self.images.pipeline(self.batch_size))
        return self._pipeline


@contextmanager
def on_device(
    images: DeviceImages, source: object, normalize: bool, batch_size: int | None
) -> Iterator[OnDevice]:
    """The passage of one call. source: what it was given."""
    batch = images.batch(batch_size)
    if batch_size is None and _is_on_device(source):
        batch = _DEVICE_SLICE
    with ExitStack() as stack:
        yield OnDevice(images, normalize, batch_size, batch, stack)


def _is_on_device(source: object) -> bool:
    where = getattr(source, "__dlpack_device__", None)
    return where is not None and where()[0] not in _DLPACK_HOST


@dataclass(frozen=True)
class Placement:
    """One encoder on one device.

    text_memory: how many rows of a text batch fit. text_rows: how many fill the device.
    """

    images: DeviceImages
    text_memory: MemoryLimit
    text_rows: int

    @property
    def most_text_rows(self) -> int:
        return self.text_memory.within(self.text_rows)

    def ready(self, images: object) -> Tensor | None:
        """`images`, when they are a uint8 batch (N, 3, R, R) in the device's memory and nothing is left to prepare."""
        if not isinstance(images, torch.Tensor) or images.dtype != torch.uint8:
            return None
        fits = images.shape[1:] == self.images.shape and self.images.layer.holds(images)
        return images if fits else None

    def describe(self) -> dict[str, Any]:
        """What was decided for this device."""
        return {**self.images.describe(), "text rows a batch": self.most_text_rows}


def layer_of(device: torch.device) -> DeviceLayer | None:
    """The layer of an accelerator; None where batches are computed in the caller's thread."""
    return CudaLayer(device) if device.type == "cuda" else None


def place(encoder: Encoder, layer: DeviceLayer, *, batch_invariant: bool) -> Placement:
    """The encoder on the layer's device.

    Args:
        batch_invariant: images go one at a time, each through the graph of one image.
    """
    config = encoder.config
    ours = isinstance(encoder, TowerEncoder)
    most = 1 if batch_invariant else MOST_IMAGES
    size = config.vision.image_size

    def encode(pixels: Tensor, normalize: bool) -> Tensor:
        with torch.inference_mode():
            rows = encoder.encode_pixels(pixels)
            return F.normalize(rows, dim=-1) if normalize else rows

    images = DeviceImages(
        layer,
        encode,
        _batching(config.vision, layer.multiprocessors, most),
        (3, size, size),
        config.embed_dim,
        encoder.wide if isinstance(encoder, TowerEncoder) else torch.float32,
        graphs=ours,
    )
    rows = token_budget(_products(config.text), layer.multiprocessors, MOST_TEXT_ROWS)
    return Placement(images, MemoryLimit(layer, images.release), rows)


def _batching(
    config: VisionTransformerConfig | ResNetConfig, multiprocessors: int, most: int
) -> Batching:
    if isinstance(config, ResNetConfig):
        fitting = max(1, RESNET_PIXELS // config.image_size**2)
        return Batching((), 1, multiprocessors, min(most, fitting))
    return Batching(_products(config), config.tokens, multiprocessors, most)


def _products(config: VisionTransformerConfig | TextConfig) -> tuple[Product, ...]:
    """Of one block: qkv, out_proj, c_fc, c_proj."""
    width, mlp = config.width, config.mlp_width
    return (
        Product(3 * width, width),
        Product(width, width),
        Product(mlp, width),
        Product(width, mlp),
    )
