"""Who is measured: clipfast and its peers, a module each.

A module has
    requires(work): packages that must be installed,
    variants(work): the settings worth trying; the fastest on this machine is the one that is reported,
    prepare(work, variant): a `Prepared`, everything that is done once done.

They run in processes of their own (`benchmarks.worker`), so importing one may do as it likes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.work import Task, Work, has_resnet


@dataclass(frozen=True)
class Prepared:
    """call: what is timed, with its result on the host when it returns. items: how many inputs a call serves.

    result: what `call` computed, for the comparison with float64: (rows, E) embeddings, (M, N) probabilities or
    (M, k) indices, as a numpy array.
    """

    call: Callable[[], Any]
    items: int
    result: Callable[[], Any]


@dataclass(frozen=True)
class Peer:
    module: str
    serves: dict[Task, tuple[str, ...]]


OURS = Peer("benchmarks.peers.clipfast", {})
PEERS: dict[str, Peer] = {
    "openvino": Peer(
        "benchmarks.peers.openvino",
        {"images": ("fp32", "bf16", "int8"), "texts": ("fp32", "bf16", "int8")},
    ),
    "transformers": Peer(
        "benchmarks.peers.transformers",
        {"images": ("fp32", "bf16"), "texts": ("fp32", "bf16"), "model_load": ("fp32",)},
    ),
    "open_clip": Peer(
        "benchmarks.peers.open_clip",
        {"images": ("fp32", "bf16"), "texts": ("fp32", "bf16"), "model_load": ("fp32",)},
    ),
    "onnxruntime": Peer(
        "benchmarks.peers.onnxruntime", {"images": ("fp32", "int8"), "texts": ("fp32", "int8")}
    ),
    "torch_compile": Peer(
        "benchmarks.peers.torch_compile", {"images": ("fp32", "bf16"), "texts": ("fp32", "bf16")}
    ),
    "torchao": Peer("benchmarks.peers.torchao", {"images": ("int8",), "texts": ("int8",)}),
    "padded_texts": Peer(
        "benchmarks.peers.padded_texts", {"captions": ("bf16",), "prompts": ("bf16",)}
    ),
    "sorted_texts": Peer(
        "benchmarks.peers.sorted_texts", {"captions": ("bf16",), "prompts": ("bf16",)}
    ),
    "faiss": Peer("benchmarks.peers.faiss", {"top_k": ("fp32", "bf16")}),
    "torch": Peer(
        "benchmarks.peers.torch", {"similarity": ("fp32", "bf16"), "top_k": ("fp32", "bf16")}
    ),
}


def peers_of(work: Work) -> list[str]:
    """The peers that can do this work in this precision, installed or not."""
    return [
        name
        for name, peer in PEERS.items()
        if work.precision in peer.serves.get(work.task, ())
        and not (name == "transformers" and has_resnet(work))  # it has no ResNet towers
    ]
