"""Millions of images to embeddings on disk, resumable at any moment; and what was written, memory-mapped.

model = clipfast.load("ViT-B/32")
clipfast.bulk.embed(model, ["photos/", "more-{000..099}.tar"], "embeddings/")
result = clipfast.bulk.read("embeddings/")
scores, rows = result.top_k(model.encode_texts(["a dog on a beach"]), k=10)
result.metadata(rows[0])
"""

from clipfast.bulk.plan import Plan
from clipfast.bulk.progress import Progress, Summary
from clipfast.bulk.result import Result, read
from clipfast.bulk.run import embed
from clipfast.bulk.settings import Settings
from clipfast.bulk.sources import find_sources

__all__ = [
    "Plan",
    "Progress",
    "Result",
    "Settings",
    "Summary",
    "embed",
    "find_sources",
    "read",
]
