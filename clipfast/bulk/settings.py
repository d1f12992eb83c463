"""The options of a job."""

from __future__ import annotations

from dataclasses import dataclass

from clipfast.bulk.layout import FORMATS, Format
from clipfast.bulk.shard import MODALITIES, Modality
from clipfast.errors import ConfigurationError
from clipfast.inputs import EXACT, DecodeOptions

SHARD_SIZE = 50_000
# It belongs to the job, since bits depend on it, so it is not the engine's own choice. On a CPU decoders and the
# encoder take turns a batch at a time: the demo model's job is 13% faster than with batches of 32. The buffers of
# batches, at 224 pixels: 154 MB.
BATCH_SIZE = 256


@dataclass(frozen=True)
class Settings:
    """How a job runs.

    modalities: "images", "texts" (captions: a tar's .txt or .json, a parquet column, a list's field, the .txt file
        beside an image), or both; an item must have all that is asked for.
    batch_size, shard_size: None takes what the output was begun with, else 256 items and 50,000
        rows. The rows' bits depend on the batch size alone.
    format: see `layout`. overwrite: replace what is there. retry_failed: try the items of errors/ again.
    num_shards, shard_index: this process makes the shards k with k % num_shards == shard_index.
    num_workers: decoding threads; None is one a processor.
    """

    modalities: tuple[Modality, ...] = ("images",)
    batch_size: int | None = None
    shard_size: int | None = None
    format: Format = "clip-retrieval"
    overwrite: bool = False
    retry_failed: bool = False
    num_shards: int = 1
    shard_index: int = 0
    image_column: str | None = None
    caption_column: str | None = None
    num_workers: int | None = None
    decode: DecodeOptions = EXACT

    def __post_init__(self) -> None:
        sizes = (self.batch_size, self.shard_size, self.num_workers)
        if any(size is not None and size < 1 for size in sizes):
            raise ConfigurationError(
                f"got batch_size, shard_size, num_workers = {sizes}; expected positive numbers, or None"
            )
        if not 0 <= self.shard_index < self.num_shards:
            raise ConfigurationError(
                f"got shard_index={self.shard_index} of num_shards={self.num_shards}; expected 0 <= index < number"
            )
        if self.format not in FORMATS:
            raise ConfigurationError(
                f"format={self.format!r}: expected one of {', '.join(FORMATS)}"
            )
        if not self.modalities or set(self.modalities) - set(MODALITIES):
            raise ConfigurationError(f"modalities={self.modalities}: expected some of {MODALITIES}")
