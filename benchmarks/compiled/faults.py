"""A seeded fault, and whether the gates see it: one that goes unseen shows a gate that proves nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """seed: makes the fault and returns what the gates say. says: words of the gate that must see it."""

    seed: Callable[[], list[str]]
    says: str


def seed_all(faults: dict[str, Fault]) -> int:
    """Seeds every fault and prints what the gates say; 1 when one goes unseen."""
    unseen = 0
    for name, fault in faults.items():
        said = fault.seed()
        seen = [words for words in said if fault.says in words]
        unseen += not seen
        print(f"{name}: {seen[0] if seen else f'NOT SEEN in {said}'}")
    return 1 if unseen else 0
