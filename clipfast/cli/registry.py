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
    "embed": Command("clipfast.cli.embed", "images by the million to embedding files, resumable"),
    "bench": Command("clipfast.cli.bench", "measure items/s, latency and where the time goes here"),
    "export": Command("clipfast.cli.export", "write verified ONNX files of both towers"),
    "build-engine": Command("clipfast.cli.build_engine", "build TensorRT engines from an export"),
    "inspect": Command("clipfast.cli.inspect", "show what an .onnx or .engine file is"),
    "triton-repository": Command(
        "clipfast.cli.triton_repository", "serve an export with NVIDIA's Triton Inference Server"
    ),
    "models": Command("clipfast.cli.models", "list the models that load by name"),
    "doctor": Command(
        "clipfast.cli.doctor", "show versions, hardware, and what each backend lacks"
    ),
}
