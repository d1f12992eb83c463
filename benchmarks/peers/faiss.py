"""faiss's exact inner-product index."""

from __future__ import annotations

from typing import Any

from benchmarks import work as inputs
from benchmarks.peers import Prepared
from benchmarks.work import Work


def requires(work: Work) -> tuple[str, ...]:
    return ("faiss",)


def variants(work: Work) -> tuple[str, ...]:
    return ("IndexFlatIP",)


def prepare(work: Work, variant: str) -> Prepared:
    import faiss

    faiss.omp_set_num_threads(work.threads)
    index = faiss.IndexFlatIP(inputs.EMBED_DIM)
    index.add(inputs.embeddings(work.gallery, seed=2))
    queries = inputs.embeddings(work.batch, seed=1)

    def call() -> Any:
        return index.search(queries, inputs.K)

    return Prepared(call, work.batch, lambda: call()[1])
