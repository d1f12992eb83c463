"""Every command: its module and its line in `clipfast --help`.

A module has `add_arguments(parser: argparse.ArgumentParser) -> None` and `run(options: argparse.Namespace) -> int`,
whose result is an `outcome.Exit`. What is heavy (torch, numpy) is imported inside `run`.
"""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    module: str
    help: str


COMMANDS: dict[str, Command] = {
    "demo": Command(
        "clipfast.cli.demo", "classify and search the sample images; write a contact sheet"
    ),
    "classify": Command("clipfast.cli.classify", "score images against labels, zero-shot"),
    "embed": Command("clipfast.cli.embed", "write image embeddings in clip-retrieval's layout"),
    "bench": Command("clipfast.cli.bench", "measure items/s, latency and where the time goes here"),
    "doctor": Command(
        "clipfast.cli.doctor", "show versions, hardware, and what each backend lacks"
    ),
}
