"""The options that say which model runs, where and how; shared by the commands that load one."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from clipfast import environment

if TYPE_CHECKING:
    from clipfast.api import Model


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """--model and what else `clipfast.load` takes."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        metavar="M",
        help='a name ("ViT-B/32", "ViT-B-32/laion2b_s34b_b79k", "hf-hub:org/name"), a file or a folder; '
        "default: $CLIPFAST_MODEL, else the demo model",
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or cuda:all")
    group.add_argument(
        "--precision", default="auto", metavar="P", help="auto, fp32, bf16, fp16, int8 or fp8"
    )
    group.add_argument(
        "--backend", default="auto", metavar="B", help=", ".join(environment.BACKENDS)
    )
    group.add_argument(
        "--architecture", metavar="A", help="family, e.g. ViT-H-14, where the file does not say it"
    )
    group.add_argument("--activation", choices=("gelu", "quick_gelu"), help="override the table's")
    group.add_argument("--threads", type=positive, metavar="N", help="CPU threads")


def load_model(options: argparse.Namespace) -> Model:
    """The model that the options name.

    Raises:
        CheckpointError, UnsupportedError, ConfigurationError: as `clipfast.load`.
    """
    import clipfast

    arguments = load_arguments(options)
    return clipfast.load(arguments.pop("source"), **arguments)


def load_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """What the options say, as arguments of `clipfast.load`."""
    names = ("device", "precision", "backend", "architecture", "activation", "threads")
    return {"source": model_name(options)} | {name: getattr(options, name) for name in names}


def model_name(options: argparse.Namespace) -> str:
    """--model, else CLIPFAST_MODEL, else "demo", which is said aloud: it knows only shapes and digits."""
    name = options.model or environment.default_model()
    if name is None:
        print(
            "clipfast: using the demo model, which knows only drawn shapes and digits; "
            "pass --model ViT-B/32 for photographs",
            file=sys.stderr,
        )
        return "demo"
    return str(name)


def positive(text: str) -> int:
    """An argparse type: an integer above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer above 0, got {text}")
    return value
