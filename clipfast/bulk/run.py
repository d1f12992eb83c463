"""`embed`: finds the shards that are missing, and makes them, one after another."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from clipfast.bulk.decode import Recipe
from clipfast.bulk.encode import encode_batch
from clipfast.bulk.job import facts_of
from clipfast.bulk.pipeline import Batch, Pipeline, default_workers
from clipfast.bulk.progress import Progress, Summary
from clipfast.bulk.session import Work, opened
from clipfast.bulk.settings import Settings
from clipfast.bulk.shard import Shard, ShardBuilder
from clipfast.bulk.tasks import Task

if TYPE_CHECKING:
    from clipfast.api import Model


def embed(
    model: Model | Callable[[], Model],
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    settings: Settings = Settings(),  # noqa: B008  (frozen)
    progress: Progress | None = None,
) -> Summary:
    """Embed every item of the inputs into files under `output`; only what is missing, when it was begun before.

    Args:
        model: loaded, or a function that loads it, called when the output is locked and the inputs are listed.
        inputs: folders, image files, lists, tars, parquet files, as `find_sources` takes them.
        progress: says how far it is, and holds the summary also when an exception ends the job.
    Raises:
        ClipfastError: another process writes there, or nothing was found. ConfigurationError: the output is another
        job's. OSError: an input is missing, or the output cannot be written (the job can go on later).
    """
    progress = progress or Progress()
    with opened(inputs, Path(output), settings, progress) as session:
        loaded = model() if callable(model) else model
        work = session.work_for(facts_of(loaded))
        make_shards(loaded, work, settings)
    return progress.finish()


def make_shards(model: Model, work: Work, settings: Settings) -> None:
    """Every task of the work: this thread encodes, others list, decode and write."""
    workers = settings.num_workers or default_workers()
    recipe = recipe_of(work, settings)
    on_cpu = model.device.type == "cpu"
    pipeline = Pipeline(work.plan, recipe, work.job.batch_size, workers, take_turns=on_cpu)
    slots = chain.from_iterable(task.batches(work.plan, work.job.batch_size) for task in work.tasks)
    work.progress.start()
    with work.writing() as writer, pipeline.running(slots):
        batches = iter(pipeline)
        for task in work.tasks:
            work.put(writer, _make_shard(model, work, task, batches, pipeline))


def recipe_of(work: Work, settings: Settings) -> Recipe:
    config = work.facts.config
    return Recipe(config.preprocess, config.vision.image_size, work.modalities, settings.decode)


def builder_of(work: Work, task: Task) -> ShardBuilder:
    """Slots for the task's shard, with the rows that it keeps of an earlier run."""
    width = work.facts.config.embed_dim
    builder = ShardBuilder(task.shard, work.plan.span(task.shard), work.modalities, width)
    if task.slots is not None:
        builder.restore(work.layout.read(task.shard, work.modalities))
    return builder


def _make_shard(
    model: Model, work: Work, task: Task, batches: Iterator[Batch], pipeline: Pipeline
) -> Shard:
    builder = builder_of(work, task)
    for _ in task.batches(work.plan, work.job.batch_size):
        batch = next(batches)
        decoded = batch.wait()
        began = time.perf_counter()
        with pipeline.computing():
            encoded = encode_batch(
                model, batch.pixels, decoded.captions, decoded.failures, work.modalities
            )
        seconds = time.perf_counter() - began
        names = [item.name for item in batch.items]
        first = batch.slot.start - builder.span.start
        builder.fill(first, encoded.rows, names, decoded.captions, encoded.failures)
        pipeline.release(batch)
        work.progress.batch(
            len(names),
            len(encoded.failures),
            read=batch.list_seconds + decoded.read_seconds / pipeline.workers,
            decode=decoded.decode_seconds / pipeline.workers,
            encode=seconds,
        )
        work.check()
    return builder.finish()
