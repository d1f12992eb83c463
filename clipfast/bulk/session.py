"""An output that is open for one process: what is to be made in it, and the writing of it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from clipfast.bulk.job import Job, ModelFacts, claim, job_of, read_job
from clipfast.bulk.layout import Layout
from clipfast.bulk.lock import Lock
from clipfast.bulk.manifest import write_manifest
from clipfast.bulk.marker import Marker
from clipfast.bulk.output import check_unclaimed, held, replace_job, scratch
from clipfast.bulk.plan import Plan
from clipfast.bulk.progress import Progress
from clipfast.bulk.settings import BATCH_SIZE, SHARD_SIZE, Settings
from clipfast.bulk.shard import MODALITIES, Shard
from clipfast.bulk.sources import find_sources
from clipfast.bulk.tasks import Task, find_tasks
from clipfast.errors import ClipfastError


class Session:
    """The output is locked and the inputs are listed."""

    def __init__(
        self, folder: Path, plan: Plan, settings: Settings, lock: Lock, progress: Progress
    ) -> None:
        self.folder = folder
        self.plan = plan
        self.settings = settings
        self.lock = lock
        self.progress = progress

    def work_for(self, facts: ModelFacts) -> Work:
        """What is missing with this model.

        Raises:
            ConfigurationError: the output is another job's.
        """
        settings, plan = self.settings, self.plan
        index, workers = settings.shard_index, settings.num_shards
        shards = plan.of_worker(index, workers)
        begun = None if settings.overwrite else read_job(self.folder)
        usual = begun.batch_size if begun else BATCH_SIZE
        job = job_of(facts, plan, settings, settings.batch_size or usual)
        if settings.overwrite:
            replace_job(self.folder, job, shards, index, workers)
        else:
            check_unclaimed(self.folder)
        claim(self.folder, job)
        layout = Layout(self.folder, job.format, job.digits)
        todo = find_tasks(layout, job, plan, settings)
        items = sum(len(plan.span(shard)) for shard in shards)
        self.progress.plan(str(self.folder), items, todo)
        return Work(self, job, layout, facts, todo.tasks)


@contextmanager
def opened(
    inputs: Sequence[str | os.PathLike[str]], output: Path, settings: Settings, progress: Progress
) -> Iterator[Session]:
    """Lock the output, list the inputs; the lists are removed at the end.

    Raises:
        OSError: an input is missing, or the output is not writable. ClipfastError: another process writes there, or
        the inputs hold nothing.
    """
    index, workers = settings.shard_index, settings.num_shards
    with held(output, index, workers) as lock, scratch(output, index, workers) as lists:
        plan = _plan(output, [os.fspath(path) for path in inputs], lists, settings)
        progress.say(
            "listed",
            f"{plan.count:,} items in {len(inputs)} inputs, {plan.shards:,} shards",
            items=plan.count,
            inputs=len(inputs),
            shards=plan.shards,
        )
        yield Session(output, plan, settings, lock, progress)


def _plan(output: Path, inputs: list[str], lists: Path, settings: Settings) -> Plan:
    begun = None if settings.overwrite else read_job(output)
    sources = find_sources(
        inputs,
        lists,
        image_column=settings.image_column,
        caption_column=settings.caption_column,
    )
    plan = Plan(sources, settings.shard_size or (begun.shard_size if begun else SHARD_SIZE))
    if not plan.count:
        raise ClipfastError(
            f"nothing to embed was found in {', '.join(inputs)}; expected image files, folders that hold some, lists, "
            "tars or parquet files"
        )
    return plan


class Work:
    """The shards to make, and where they go. A shard is written while the next one is made."""

    def __init__(
        self, session: Session, job: Job, layout: Layout, facts: ModelFacts, tasks: list[Task]
    ) -> None:
        self.session = session
        self.plan = session.plan
        self.progress = session.progress
        self.job = job
        self.layout = layout
        self.facts = facts
        self.tasks = tasks
        self.modalities = tuple(kind for kind in MODALITIES if kind in job.modalities)
        self._writing: Future[tuple[Marker, float]] | None = None

    @contextmanager
    def writing(self) -> Iterator[ThreadPoolExecutor]:
        """The writer lives while the block runs; a shard that is being written when it ends is finished."""
        with ThreadPoolExecutor(1, "clipfast-write") as writer:
            try:
                yield writer
            finally:
                self._finish_shard()
        write_manifest(self.layout.folder, self.job)

    def put(self, writer: ThreadPoolExecutor, shard: Shard) -> None:
        """Write the shard, once the one before is on disk. Raises: OSError of the one before."""
        self._finish_shard()
        self._writing = writer.submit(self._write, shard)

    def check(self) -> None:
        """Call after each batch: tells others that we live, and raises what writing met."""
        self.session.lock.touch()
        if self._writing is not None and self._writing.done():
            self._finish_shard()

    def _finish_shard(self) -> None:
        if self._writing is not None:
            try:
                marker, seconds = self._writing.result()
            except OSError:
                self._writing = None
                raise
            self._writing = (
                None  # not before: a signal may end the wait, and then it is waited for at the end
            )
            self.progress.shard(marker.rows, marker.errors, seconds)

    def _write(self, shard: Shard) -> tuple[Marker, float]:
        """The shard's files, then its marker. Raises: OSError; then nothing of the shard is left."""
        began = time.perf_counter()
        layout, span = self.layout, self.plan.span(shard.number)
        (layout.folder / layout.marker(shard.number)).unlink(missing_ok=True)
        run = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "backend": self.facts.backend,
            "finished": round(time.time(), 3),
        }
        try:
            files = layout.write(shard)
            marker = Marker(
                shard.number,
                self.job.digest,
                span.start,
                span.stop,
                len(shard.items),
                shard.codes,
                files,
                run,
            )
            marker.write(layout)
        except OSError:
            for name in layout.names(shard.number):
                (layout.folder / name).unlink(missing_ok=True)
            raise
        return marker, time.perf_counter() - began
