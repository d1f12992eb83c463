"""Batches of inputs through an encoder: any number of images or texts in, unit rows out, in input order."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sized
from contextlib import AbstractContextManager, closing
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from clipfast.device import DeviceLayer
from clipfast.encoder import Encoder, TowerEncoder
from clipfast.errors import ConfigurationError, ForkedProcessError, InputError, UnsupportedError
from clipfast.inputs import EXACT, DecodeOptions, PackedTexts, Tokenizer, image_batches
from clipfast.inputs.packing import pack_tokens
from clipfast.inputs.text_pieces import packed_pieces
from clipfast.ops import Tensor
from clipfast.placement import NO_DEVICE_RESIZE, Passage, Placement, on_device, on_host, place
from clipfast.rows import RowsInOrder
from clipfast.streams import Streams
from clipfast.text_batches import TextBatches, TextCall, TextStatistics, active, finished

Batch = TypeVar("Batch")

# Images a batch, by device type: large enough to fill the machine, small enough that a batch's activations stay near
# the cores. Behind a device layer it is computed from what the device is.
IMAGE_BATCH = {"cpu": 32, "cuda": 256}
# Texts tokenized and planned at a time; prefixes are shared within such a piece.
TEXT_PIECE = 65536
# Hidden states are large: a batch of them is small.
_IMAGES_AT_ONCE = 16


class Engine:
    """Batching around one encoder. Several threads may call it; a forked child may not."""

    def __init__(
        self,
        encoder: Encoder,
        tokenizer: Tokenizer,
        *,
        batch_invariant: bool = False,
        layer: DeviceLayer | None = None,
        device_resize: bool = False,
        streams: int | None = None,
    ) -> None:
        """Batches for one encoder.

        Args:
            layer: the accelerator that the encoder is on; None computes on the CPU.
            streams: batches that the CPU computes at once; None chooses, and a runtime has its own. One with
                batch_invariant, since other operations than ours may sum up otherwise with fewer threads.
            device_resize: whether decoded images of the host are resized there.
        Raises:
            UnsupportedError: device_resize without a layer, or as `place`.
        """
        self.encoder = encoder
        self.placement: Placement | None = None
        if layer is not None:
            self.placement = place(
                encoder, layer, batch_invariant=batch_invariant, device_resize=device_resize
            )
        elif device_resize:
            raise UnsupportedError(f"{NO_DEVICE_RESIZE}: it is for weights loaded on a GPU")
        self._streams = Streams(1)
        if layer is None and isinstance(encoder, TowerEncoder) and not batch_invariant:
            self._streams = Streams(streams, encoder.ops.batches_at_once)
        self._texts = TextBatches(
            encoder, self.placement, self._streams, batch_invariant=batch_invariant
        )
        self.tokenizer = tokenizer
        self.batch_invariant = batch_invariant
        self._process = os.getpid()
        self._of_thread = threading.local()

    @property
    def last_errors(self) -> list[InputError]:
        """The inputs that failed in this thread's last encode_images(errors="null")."""
        errors: list[InputError] = getattr(self._of_thread, "errors", [])
        return errors

    @property
    def last_text_statistics(self) -> TextStatistics:
        """What this thread's last encode_texts did."""
        statistics: TextStatistics = getattr(self._of_thread, "statistics", TextStatistics())
        return statistics

    # ---- images ----------------------------------------------------------------------------------------------

    def encode_images(
        self,
        images: Any,
        *,
        batch_size: int | None,
        normalize: bool,
        errors: Literal["raise", "null"],
        progress: bool,
        num_workers: int | None,
        output_device: torch.device | str | None,
        decode: DecodeOptions = EXACT,
    ) -> Tensor:
        """As `Model.encode_images`."""
        self.check_process()
        self._of_thread.errors = failed = []
        if errors not in ("raise", "null"):
            raise ConfigurationError(f'errors={errors!r}: expected "raise" or "null"')
        self._check_lengths(normalize)
        size = _positive("batch_size", batch_size)
        if self.placement is not None and not progress:
            ready = self.placement.ready(images)
            if ready is not None:
                with active(self.placement):
                    done = self.placement.images.run(ready, normalize, size)
                return done if output_device is None else done.to(output_device)
        config = self.encoder.config
        rows = RowsInOrder(config.embed_dim, _count(images), output_device)
        with active(self.placement), self._passage(images, normalize, size) as passage:
            batches = image_batches(
                images,
                config.preprocess,
                config.vision.image_size,
                batch_size=passage.batch,
                num_workers=num_workers,
                options=decode,
                allocate=passage.allocate,
                allocate_unresized=passage.allocate_unresized,
            )
            with closing(batches), _bar(progress, images, "image") as bar:
                for batch in batches:
                    if batch.failures and errors == "raise":
                        raise batch.failures[0]
                    failed += batch.failures
                    for indices, encoded in passage.put(batch):
                        rows.put(indices, encoded)
                    rows.leave_out(
                        [failure.index for failure in batch.failures if failure.index is not None]
                    )
                    bar.update(len(batch.indices) + len(batch.failures))
                for indices, encoded in passage.finish():
                    rows.put(indices, encoded)
        return rows.finish()

    def _passage(
        self, images: object, normalize: bool, size: int | None
    ) -> AbstractContextManager[Passage]:
        if self.placement is not None:
            return on_device(self.placement.images, images, normalize, size)

        def encode(pixels: Tensor) -> Tensor:
            return self._encode_pixels(pixels, normalize).to(pixels.device)

        batch = size or self._usual_batch
        at_once = min(batch, self._images_at_once or batch)
        return on_host(encode, self._streams, batch, at_once)

    @property
    def _images_at_once(self) -> int | None:
        """None for a runtime, which knows itself how to compute a batch."""
        return self.encoder.images_at_once if isinstance(self.encoder, TowerEncoder) else None

    def map_images(self, images: Any, function: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """function(pixels on the device) of each batch, on the CPU; the first bad image raises."""
        self.check_process()
        config = self.encoder.config
        results = []
        batches = image_batches(
            images, config.preprocess, config.vision.image_size, batch_size=_IMAGES_AT_ONCE
        )
        with closing(batches):
            for batch in batches:
                if batch.failures:
                    raise batch.failures[0]
                results.append(self.run(function, batch.pixels.to(self.encoder.device)))
        return results

    def run(self, function: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
        """function(batch), as an ordinary tensor on the CPU."""
        self.check_process()
        with active(self.placement), torch.inference_mode():
            result = function(batch)
        return result.clone().cpu()

    def _encode_pixels(self, pixels: Tensor, normalize: bool) -> Tensor:
        images = pixels.to(self.encoder.device, non_blocking=True)
        with torch.inference_mode():
            if not len(images):
                return torch.empty(0, self.encoder.config.embed_dim, device=self.encoder.device)
            if self.batch_invariant:
                encoded = torch.cat([self.encoder.encode_pixels(one[None]) for one in images])
            else:
                encoded = self.encoder.encode_pixels(images)
            return finished(encoded, normalize)

    # ---- texts -----------------------------------------------------------------------------------------------

    def encode_texts(
        self,
        texts: Iterable[str],
        *,
        batch_size: int | None,
        normalize: bool,
        truncate: bool,
        share_prefixes: bool | None,
        progress: bool,
        output_device: torch.device | str | None,
    ) -> Tensor:
        """As `Model.encode_texts`."""
        self.check_process()
        _positive("batch_size", batch_size)
        if isinstance(texts, str | bytes):
            got = type(texts).__name__
            raise InputError(
                f"got one {got}, expected a list of str: pass [text]", code="wrong_type"
            )
        with _bar(progress, texts, "text") as bar:
            length = self.encoder.config.text.context_length
            pieces = packed_pieces(texts, self.tokenizer, length, truncate, TEXT_PIECE)
            call = TextCall(batch_size, normalize, share_prefixes, bar.update)
            return self._encode_pieces(pieces, call, output_device)

    def encode_tokens(self, ids: npt.NDArray[np.int32], *, normalize: bool) -> Tensor:
        """As `Model.encode_tokens`."""
        self.check_process()
        packed = pack_tokens(ids, self.encoder.config.text.eot_id)
        call = TextCall(None, normalize, None, lambda _: None)
        return self._encode_pieces([packed], call, None)

    def _encode_pieces(
        self,
        pieces: Iterable[PackedTexts],
        call: TextCall,
        output_device: torch.device | str | None,
    ) -> Tensor:
        self._check_lengths(call.normalize)
        target = torch.device(output_device or "cpu")
        rows, self._of_thread.statistics = self._texts.encode(pieces, call, target)
        return rows

    def _check_lengths(self, normalize: bool) -> None:
        if self.encoder.unit_rows and not normalize:
            raise UnsupportedError(
                "normalize=False: this exported model's rows leave it with unit length; load the weights themselves"
            )

    @property
    def _usual_batch(self) -> int:
        return IMAGE_BATCH.get(self.encoder.device.type, IMAGE_BATCH["cpu"])

    def describe(self) -> dict[str, Any]:
        """The batches that are made, and on an accelerator why."""
        if self.placement is None:
            return {
                "images a batch": self._usual_batch,
                "batches at once": self._streams.count,
                "text rows a batch": self._texts.most_rows,
            }
        return self.placement.describe()

    def release(self) -> None:
        """Gives graphs, buffers and cached memory back to the device."""
        if self.placement is not None:
            self.placement.release()
        elif isinstance(self.encoder, TowerEncoder):
            self.encoder.release()

    def check_process(self) -> None:
        if os.getpid() != self._process:
            raise ForkedProcessError(
                f"this model was loaded in process {self._process} and is used in its forked child {os.getpid()}, "
                "where its threads do not exist; load it in the child, or start workers with the 'spawn' method"
            )


def _positive(name: str, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise ConfigurationError(f"{name}={value}: expected a positive number, or None")
    return value


def _bar(show: bool, inputs: object, unit: str) -> tqdm[Any]:
    return tqdm(total=_count(inputs), unit=unit, disable=not show)


def _count(inputs: object) -> int | None:
    return len(inputs) if isinstance(inputs, Sized) else None
