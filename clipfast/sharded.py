"""One engine on each of several devices: inputs go to them in contiguous shares, rows come back in input order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from clipfast.engine import Engine
from clipfast.errors import InputError, UnsupportedError
from clipfast.inputs import EXACT, DecodeOptions
from clipfast.inputs.pipeline import available_processors
from clipfast.ops import Tensor
from clipfast.precision import resolve_device
from clipfast.text_batches import TextStatistics
from clipfast.threads import on_callers_streams

Outcome = TypeVar("Outcome")
# Items of a stream that an engine is given at once: a stream has no length to divide.
STREAM_SHARE = 4096
ALL_GPUS = "cuda:all"


def resolve_devices(device: str | torch.device) -> list[torch.device]:
    """The devices that a name stands for: "cuda:all" is every visible GPU, anything else is one device.

    Raises:
        ConfigurationError: the name is no device. UnsupportedError: there is no such device.
    """
    if device != ALL_GPUS:
        return [resolve_device(device)]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise UnsupportedError(
            f'device {ALL_GPUS!r} was asked for and no CUDA device is usable; use device="cpu" or "auto"'
        )
    return [torch.device("cuda", index) for index in range(count)]


@dataclass(frozen=True)
class _Share:
    """What one engine made of the items from `start` on; error: what stopped it."""

    start: int
    rows: Tensor | None = None
    failures: list[InputError] = field(default_factory=list)
    statistics: TextStatistics = field(default_factory=TextStatistics)
    error: InputError | None = None


class ShardedEngine(Engine):
    """Engines of one model, used together. Several threads may call it; what is no batch runs on the first device."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        first = engines[0]
        super().__init__(first.encoder, first.tokenizer, batch_invariant=first.batch_invariant)
        self.placement = first.placement
        self.engines = tuple(engines)

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
        self._of_thread.errors = []
        workers = available_processors() if num_workers is None else num_workers
        target = output_device or getattr(images, "device", None) or "cpu"

        def work(engine: Engine, start: int, part: Any, first: bool) -> _Share:
            rows = engine.encode_images(
                part,
                batch_size=batch_size,
                normalize=normalize,
                errors=errors,
                progress=progress and first,
                num_workers=-(-workers // len(self.engines)),
                output_device=target,
                decode=decode,
            )
            failures = [failure.at(start + (failure.index or 0)) for failure in engine.last_errors]
            return _Share(start, rows, failures)

        shares = self._in_order(images, work)
        self._of_thread.errors = [failure for share in shares for failure in share.failures]
        return self._joined(shares, target)

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
        options: dict[str, Any] = {
            "batch_size": batch_size,
            "normalize": normalize,
            "truncate": truncate,
            "share_prefixes": share_prefixes,
            "output_device": output_device or "cpu",
        }
        if isinstance(texts, str | bytes):  # refused in the engine's own words
            return self.engines[0].encode_texts(texts, progress=progress, **options)

        def work(engine: Engine, start: int, part: Any, first: bool) -> _Share:
            rows = engine.encode_texts(part, progress=progress and first, **options)
            return _Share(start, rows, statistics=engine.last_text_statistics)

        return self._shared_texts(texts, work, options["output_device"])

    def encode_tokens(self, ids: npt.NDArray[np.int32], *, normalize: bool) -> Tensor:
        """As `Model.encode_tokens`."""

        def work(engine: Engine, start: int, part: Any, first: bool) -> _Share:
            rows = engine.encode_tokens(part, normalize=normalize)
            return _Share(start, rows, statistics=engine.last_text_statistics)

        return self._shared_texts(ids, work, "cpu")

    def describe(self) -> dict[str, Any]:
        """The batches of each device."""
        return {str(engine.encoder.device): engine.describe() for engine in self.engines}

    def release(self) -> None:
        """Gives every device's graphs, buffers and cached memory back."""
        for engine in self.engines:
            engine.release()

    def _shared_texts(
        self, texts: Any, work: Callable[..., _Share], target: torch.device | str
    ) -> Tensor:
        self.check_process()
        shares = self._in_order(texts, work)
        done = [share.statistics for share in shares]
        self._of_thread.statistics = TextStatistics(
            *(sum(getattr(one, name) for one in done) for name in ("texts", "tokens", "rows"))
        )
        return self._joined(shares, target)

    def _in_order(self, items: Any, work: Callable[..., _Share]) -> list[_Share]:
        """work on every part, a part an engine at a time; the first bad item of the whole input raises."""
        shares: list[_Share] = []
        start = on_callers_streams()
        with ThreadPoolExecutor(len(self.engines), "clipfast-shard", start) as pool:
            for parts in self._rounds(items):
                running = [
                    pool.submit(_caught, work, engine, start, part, engine is self.engines[0])
                    for engine, (start, part) in zip(self.engines, parts, strict=False)
                ]
                done = [task.result() for task in running]
                for share in done:
                    if share.error is not None:
                        raise share.error
                shares += done
        return shares

    def _rounds(self, items: Any) -> Iterator[list[tuple[int, Any]]]:
        """At most one part an engine, with its position: one round of what has a length, several of a stream.

        What is no collection of inputs goes to the first engine, whole, to be refused or taken as one.
        """
        if _is_whole(items):
            yield [(0, items)]
            return
        if isinstance(items, Sequence) or hasattr(items, "shape"):
            count = len(items)
            share = max(1, -(-count // len(self.engines)))
            # Without items the first engine says what comes of none.
            yield [(at, items[at : at + share]) for at in range(0, max(1, count), share)]
            return
        stream, start = iter(items), 0
        while True:
            parts = []
            for _ in self.engines:
                part = list(islice(stream, STREAM_SHARE))
                if part or not start:
                    parts.append((start, part))
                start += len(part)
            if parts:
                yield parts
            if not parts or len(parts[-1][1]) < STREAM_SHARE:
                return

    @staticmethod
    def _joined(shares: list[_Share], target: torch.device | str) -> Tensor:
        rows = [share.rows.to(target) for share in shares if share.rows is not None]
        filled = [part for part in rows if len(part)]
        return torch.cat(filled) if filled else rows[0]


def _is_whole(items: Any) -> bool:
    if hasattr(items, "shape"):
        return len(items.shape) not in (2, 4)  # token ids, and batches of images
    return isinstance(items, str | bytes | bytearray | memoryview | dict | set) or not isinstance(
        items, Iterable
    )


def _caught(
    work: Callable[..., _Share], engine: Engine, start: int, part: Any, first: bool
) -> _Share:
    try:
        return work(engine, start, part, first)
    except InputError as error:
        if error.index is None:
            raise
        return _Share(start, error=error.at(start + error.index))
