"""A model on its device: batches that fill it, from the products in its blocks, and the way of images through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from clipfast.config import ResNetConfig, TextConfig, VisionTransformerConfig
from clipfast.device import (
    Batching,
    CudaLayer,
    DeviceImages,
    DeviceLayer,
    DeviceTexts,
    MemoryLimit,
    Product,
    token_budget,
)
from clipfast.device.images import Resize
from clipfast.device.pipeline import Pipeline, Rows
from clipfast.encoder import Encoder, TowerEncoder
from clipfast.errors import UnsupportedError
from clipfast.inputs import PixelBatch
from clipfast.model import TextRows
from clipfast.ops import Tensor
from clipfast.streams import Streams, Underway

MOST_IMAGES = 256
# A ResNet's batch, as pixels: convolutions fill a device whatever the batch, and feature maps are large.
RESNET_PIXELS = 128 * 224 * 224
MOST_TEXT_ROWS = 65536
# Images of a batch that lives on the device, looked at together: a slice of it is no copy.
_DEVICE_SLICE = 1024
NO_DEVICE_RESIZE = 'resize="device" cannot be served'
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

    @property
    def allocate_unresized(self) -> Callable[[int], Tensor | None] | None:
        """Makes uint8 memory for the images of so many rows that are resized here; None where none are."""
        ...

    def put(self, batch: PixelBatch) -> Iterator[Rows]:
        """Takes a batch, and gives what is finished: positions, and their rows, valid until the next ones."""
        ...

    def finish(self) -> Iterator[Rows]:
        """What is still under way."""
        ...


@dataclass(frozen=True)
class Part:
    """Some images of a batch, and their positions."""

    indices: list[int]
    pixels: Tensor


@dataclass(frozen=True)
class OnHost:
    """Batches are computed on the CPU, in parts that suit its caches, several parts at once."""

    batch: int
    underway: Underway[Part, Tensor]
    at_once: int

    @property
    def allocate(self) -> None:
        return None

    @property
    def allocate_unresized(self) -> None:
        return None

    def put(self, batch: PixelBatch) -> Iterator[Rows]:
        for part in self._parts(batch):
            yield from _rows(self.underway.put(part, len(part.indices)))

    def finish(self) -> Iterator[Rows]:
        return _rows(self.underway.finish())

    def _parts(self, batch: PixelBatch) -> Iterator[Part]:
        """Equal ones: as many as the streams take at once, where there are several."""
        count, streams = -(-len(batch.indices) // self.at_once), self.underway.count
        if count > 1:
            count = -(-count // streams) * streams
        at = 0
        for pixels in batch.pixels.tensor_split(count) if count else ():
            yield Part(batch.indices[at : at + len(pixels)], pixels)
            at += len(pixels)


def _rows(finished: Iterator[tuple[Part, Tensor]]) -> Iterator[Rows]:
    return ((part.indices, rows) for part, rows in finished)


@contextmanager
def on_host(
    encode: Callable[[Tensor], Tensor], streams: Streams, batch: int, at_once: int
) -> Iterator[OnHost]:
    """The passage of one call. at_once: images that one stream takes."""

    def rows(part: Part) -> Tensor:
        return encode(part.pixels)

    with streams.open(rows) as underway:
        yield OnHost(batch, underway, at_once)


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

    def allocate_unresized(self, count: int) -> Tensor | None:
        pipeline = self._made()
        return pipeline.allocate_packed() if count <= pipeline.batch else None

    def put(self, batch: PixelBatch) -> Iterator[Rows]:
        indices, pixels = batch.indices, batch.pixels
        if pixels.dtype != torch.uint8 or pixels.device.type != "cpu":
            yield indices, self._run(pixels.to(self.images.layer.device)).to(pixels.device)
            return
        pipeline = self._made()
        if batch.unresized is not None:

            def unpack(memory: Tensor, rows: Tensor) -> None:
                images = {row: place.of(memory) for row, place in batch.places.items()}
                self.images.resize_into(rows, images)

            yield from pipeline.put(self._run, indices, pixels, batch.unresized, unpack)
            return
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

    texts: graphs of small text batches, where they can be captured. text_rows: how many rows of texts fill the device.
    """

    images: DeviceImages
    texts: DeviceTexts | None
    text_rows: int

    @cached_property
    def text_limit(self) -> MemoryLimit:
        """How many rows of texts fit."""
        return MemoryLimit(self.images.layer, partial(_release, self.images, self.texts))

    @property
    def most_text_rows(self) -> int:
        return self.text_limit.within(self.text_rows)

    def ready(self, images: object) -> Tensor | None:
        """`images`, when they are a uint8 batch (N, 3, R, R) in the device's memory and nothing is left to prepare."""
        if not isinstance(images, torch.Tensor) or images.dtype != torch.uint8:
            return None
        fits = images.shape[1:] == self.images.shape and self.images.layer.holds(images)
        return images if fits else None

    def describe(self) -> dict[str, Any]:
        """What was decided for this device."""
        return {
            **self.images.describe(),
            "text rows a batch": self.most_text_rows,
            "text graphs": "launched one by one" if self.texts is None else self.texts.sizes,
        }

    def release(self) -> None:
        """Gives graphs, buffers and cached memory back to the device."""
        _release(self.images, self.texts)


def _release(images: DeviceImages, texts: DeviceTexts | None) -> None:
    if texts is not None:
        texts.release()
    images.release()


def layer_of(device: torch.device) -> DeviceLayer | None:
    """The layer of an accelerator; None where batches are computed in the caller's thread."""
    return CudaLayer(device) if device.type == "cuda" else None


def place(
    encoder: Encoder, layer: DeviceLayer, *, batch_invariant: bool, device_resize: bool = False
) -> Placement:
    """The encoder on the layer's device.

    Args:
        batch_invariant: images go one at a time, each through the graph of one image.
        device_resize: whether images of the host are resized on the device.
    Raises:
        UnsupportedError: device_resize of another resize than the operation's.
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
        resize=_resize(encoder) if device_resize else None,
    )
    rows = token_budget(_products(config.text), layer.multiprocessors, MOST_TEXT_ROWS)
    return Placement(images, _text_graphs(encoder, layer), rows)


def _text_graphs(encoder: Encoder, layer: DeviceLayer) -> DeviceTexts | None:
    """Of packed texts, where nothing makes the host wait for their lengths."""
    if not isinstance(encoder, TowerEncoder) or encoder.ops.packed_waits:
        return None

    def encode(ids: Tensor, positions: Tensor, cu_seqlens: Tensor, normalize: bool) -> Tensor:
        with torch.inference_mode():
            rows = encoder.encode_text_rows(TextRows(ids, positions, cu_seqlens))
            return F.normalize(rows, dim=-1) if normalize else rows

    return DeviceTexts(layer, encode)


def _resize(encoder: Encoder) -> Resize:
    """The encoder's `resize_crop`, to its size."""
    config = encoder.config
    operation = encoder.ops.resize_crop if isinstance(encoder, TowerEncoder) else None
    if operation is None:
        raise UnsupportedError(f"{NO_DEVICE_RESIZE}: this backend has no resize_crop operation")
    how = (config.preprocess.interpolation, config.preprocess.resize_mode)
    if how != ("bicubic", "shortest"):
        raise UnsupportedError(
            f"{NO_DEVICE_RESIZE}: {config.name} resizes {how}, and the operation bicubic, shortest"
        )
    return partial(operation, size=config.vision.image_size)


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
