"""Which cells are measured: every peer at every model, precision and batch size worth knowing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.peers import peers_of
from benchmarks.throughput import PAIRS
from benchmarks.work import MEASURED, PRECISIONS, TEXT_TASKS, Task, Work

BATCHES = (1, 8, 32)
LARGEST = "ViT-L-14"
WITH_TEXT_TOWERS = ("ViT-B-32", LARGEST)  # the others' text towers are one of these two
# Minutes a cell: the three fastest peers, and no interval worth the name.
LARGEST_PEERS = ("openvino", "transformers", "torch_compile")
LARGEST_PAIRS = 3
TEXTS: dict[Task, int] = {"captions": 256, "prompts": 8000}
GALLERY = 1_000_000
CLASSES = 1000


@dataclass(frozen=True)
class Cell:
    work: Work
    peer: str
    pairs: int = PAIRS

    @property
    def group(self) -> str:
        work = self.work
        what = work.model or f"{work.gallery} rows"
        return f"{work.task} {what} {work.precision} batch {work.batch}"

    @property
    def name(self) -> str:
        """The test's id: "ViT-B-32-bf16-32-openvino"."""
        work = self.work
        parts = (work.model or str(work.gallery), work.precision, str(work.batch), self.peer)
        return "-".join(part for part in parts if part)

    def at(self, weights: Callable[[str], str]) -> Work:
        """The work with its weights in place."""
        return (
            replace(self.work, weights=weights(self.work.model)) if self.work.model else self.work
        )


def cells(task: Task, *, threads: int, once: bool) -> list[Cell]:
    """All cells of a task; `once`: the smallest that exercises the suite, on the demo model."""
    if once:
        small = Work(task, "fp32", 2, threads, gallery=64)
        model = task in (*TEXT_TASKS, "images", "model_load")
        return [
            Cell(replace(small, model="demo", weights="demo", gallery=0) if model else small, "")
        ]
    if task in ("similarity", "top_k"):
        return list(_scoring(task, threads))
    if task in TEXTS:
        work = Work(task, "bf16", TEXTS[task], threads, "ViT-B-32")
        return [Cell(work, peer) for peer in peers_of(work)]
    return list(_towers(task, threads))


def _towers(task: Task, threads: int) -> Iterator[Cell]:
    for model in MEASURED if task == "images" else WITH_TEXT_TOWERS:
        for precision in PRECISIONS:
            for batch in (1,) if task == "model_load" else BATCHES:
                work = Work(task, precision, batch, threads, model)
                slow = task == "images" and model == LARGEST and batch == BATCHES[-1]
                for peer in peers_of(work):
                    if not slow:
                        yield Cell(work, peer)
                    elif peer in LARGEST_PEERS:
                        yield Cell(work, peer, LARGEST_PAIRS)


def _scoring(task: Task, threads: int) -> Iterator[Cell]:
    gallery = GALLERY if task == "top_k" else CLASSES
    for precision in PRECISIONS:
        for batch in (1, 32):
            work = Work(task, precision, batch, threads, gallery=gallery)
            yield from (Cell(work, peer) for peer in peers_of(work))


def check_once(benchmark: Any, cell: Cell) -> None:
    """Ours, in this process, one call: its result must agree with float64."""
    from benchmarks.oracle import accuracy
    from benchmarks.peers import clipfast as ours

    prepared = ours.prepare(cell.work, ours.variants(cell.work)[0])
    benchmark.pedantic(prepared.call)
    figure = accuracy(cell.work, prepared.result())
    assert figure.get("cosine", 1) > 0.999999, figure
    assert figure.get("recall", 1) == 1, figure
    assert figure.get("max_abs_error", 0) < 1e-5, figure
