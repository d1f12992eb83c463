"""faiss's exhaustive inner-product search."""

from __future__ import annotations

from typing import Any

from benchmarks import work as inputs
from benchmarks.peers import Prepared
from benchmarks.work import Work


def requires(work: Work) -> tuple[str, ...]:
    return ("faiss",)


def variants(work: Work) -> tuple[str, ...]:
    """bf16: rows stored as bfloat16, or the float32 index, which needs no widening."""
    return ("IndexFlatIP", "QT_bf16") if work.precision == "bf16" else ("IndexFlatIP",)


def prepare(work: Work, variant: str) -> Prepared:
    import faiss

    faiss.omp_set_num_threads(work.threads)
    if variant == "IndexFlatIP":
        index = faiss.IndexFlatIP(inputs.EMBED_DIM)
    else:
        kind = faiss.ScalarQuantizer.QT_bf16
        index = faiss.IndexScalarQuantizer(inputs.EMBED_DIM, kind, faiss.METRIC_INNER_PRODUCT)
    index.add(inputs.embeddings(work.gallery, seed=2))
    queries = inputs.embeddings(work.batch, seed=1)

    def call() -> Any:
        return index.search(queries, inputs.K)

    return Prepared(call, work.batch, lambda: call()[1])
