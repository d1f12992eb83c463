"""What a run consists of: tasks in order of worth, each a section for one model, and the time that each may take."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace

from clipfast.config import ARCHITECTURES, ModelConfig
from tests.random_weights import tiny, tiny_resnet

# Section -> its share of the time, or of each of its models'. In order: a kernel is right before it is fast, and the
# models as they are called come before their kernels.
SECTIONS = {
    "parity": 6.0,
    "cuda_parity": 2.0,
    "engine": 1.0,
    "outliers": 0.5,
    "texts": 2.0,
    "pipeline": 1.0,
    "kernels": 1.0,
    "cuda_kernels": 1.0,
    "sanitizers": 1.0,
}
# Seconds that a section takes at most, whatever its share is.
MOST = {"parity": 240.0, "cuda_parity": 150.0}
# A task that is reached has as much as this: less goes by before its first row, or before kernels are compiled.
LEAST = {"parity": 180.0, "cuda_parity": 90.0}
LEAST_OF_OTHERS = 45.0
OF_MODELS = ("engine", "outliers", "texts", "pipeline")
# Without torch's compiler.
PEERS = ("torch eager", "transformers", "timm", "open_clip")
_TINY: dict[str, ModelConfig] = {"tiny": tiny(), "tiny-resnet": tiny_resnet()}


def config_of(model: str) -> ModelConfig:
    """A published architecture's, or a rehearsal's."""
    return _TINY[model] if model in _TINY else ARCHITECTURES[model]


@dataclass(frozen=True)
class Choice:
    """What a section measures of one model.

    batches: of images on the device; in the largest one max-autotune takes part. precisions: ours. without: contestants
    that are left out. compiled: whether torch's compiler takes part.
    """

    model: str
    batches: tuple[int, ...] = ()
    precisions: tuple[str, ...] = ("bf16", "fp8")
    without: tuple[str, ...] = ()
    compiled: bool = True

    def options(self) -> list[str]:
        """The options that `of` reads."""
        listed = {"batches": map(str, self.batches), "precisions": self.precisions}
        listed["without"] = self.without
        words = [f"--{name}={','.join(values)}" for name, values in listed.items()]
        return [f"--model={self.model}", *words, *([] if self.compiled else ["--no-compile"])]

    @classmethod
    def of(cls, options: Sequence[str]) -> Choice:
        """The choice that a section was given on its command line."""
        parser = argparse.ArgumentParser(description="what a section measures of one model")
        parser.add_argument("--model", required=True)
        for name in ("batches", "precisions", "without"):
            parser.add_argument(f"--{name}", type=_listed, default=())
        parser.add_argument("--no-compile", dest="compiled", action="store_false")
        given = parser.parse_args(options)
        batches = tuple(map(int, given.batches))
        return cls(given.model, batches, given.precisions, given.without, given.compiled)


@dataclass(frozen=True)
class Task:
    """One process. section: a module of benchmarks.gpu.sections. weight: its share of the time."""

    section: str
    weight: float
    choice: Choice | None = None

    @property
    def name(self) -> str:
        if self.choice is None:
            return self.section
        batches = " ".join(map(str, self.choice.batches))
        return f"{self.section} {self.choice.model} {batches}".strip()

    @property
    def options(self) -> list[str]:
        return [] if self.choice is None else self.choice.options()

    def leaving_out(self, contestants: Sequence[str]) -> Task:
        """The same without contestants that brought the device down."""
        assert self.choice is not None, "contestants are of models"
        left_out = (*self.choice.without, *contestants)
        return replace(self, choice=replace(self.choice, without=left_out))


# In order of worth; what is not reached is said to be. Weight, model, batches, compiled.
_STEPS: tuple[tuple[float, str, tuple[int, ...], bool], ...] = (
    (6.0, "ViT-B-32", (1, 56, 256), True),
    (8.0, "ViT-L-14", (1, 49, 256), True),
    (2.0, "ViT-B-16", (1, 57, 256), True),
    (2.0, "ViT-L-14-336", (1, 29, 256), True),
    (2.0, "ViT-H-14", (1, 39, 256), True),
    (2.0, "RN50", (1, 128, 256), True),
    (1.0, "ViT-B-32", (8, 32, 64, 128), False),
    (1.0, "ViT-L-14", (8, 32, 64, 128), False),
)
# Compared with nothing: precisions without a target on devices that have fp8.
_OTHER_PRECISIONS = (("ViT-B-32", (56, 256)), ("ViT-L-14", (49, 256)))
_MODELS = ("ViT-B-32", "ViT-L-14")


def cells(said: str) -> tuple[str, tuple[int, ...]]:
    """ "ViT-L-14:49,256", or a model with its usual batches, as a model and batches.

    Raises: argparse.ArgumentTypeError.
    """
    model, _, batches = said.partition(":")
    usual = {name: sizes for _, name, sizes, compiled in _STEPS if compiled} | {"tiny": (2,)}
    if model not in ARCHITECTURES and model not in _TINY:
        raise argparse.ArgumentTypeError(f"{model!r} is no architecture of clipfast")
    if not batches and model not in usual:
        raise argparse.ArgumentTypeError(f"{model} has no usual batches: name some, {model}:1,64")
    try:
        return model, tuple(map(int, batches.split(","))) if batches else usual[model]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{said!r}: expected model:batch,batch") from None


def tasks(
    sections: Sequence[str],
    chosen: Sequence[tuple[str, tuple[int, ...]]] = (),
    *,
    compiled: bool = True,
    has_fp8: bool = True,
    rehearsal: bool = False,
) -> list[Task]:
    """The sections' tasks in this order.

    Args:
        chosen: the engine's models and batches; all that are worth it where none are.
        compiled: whether torch's compiler takes part anywhere.
        has_fp8: whether the device has it; int8 takes its place otherwise.
    """
    first, last = (("bf16", "fp8"), ("fp16", "int8")) if has_fp8 else (("bf16", "int8"), ("fp16",))
    steps = [(w, Choice(m, b, first, compiled=c and compiled)) for w, m, b, c in _STEPS]
    steps += [(1.0, Choice(m, b, last, PEERS, compiled=False)) for m, b in _OTHER_PRECISIONS]
    models = _MODELS
    if rehearsal:
        models, first = ("tiny",), ("fp16",)
        chosen = chosen or [("tiny", (2,)), ("tiny-resnet", (1,))]
    if chosen:
        steps = [(2.0, Choice(m, b, first, compiled=compiled)) for m, b in chosen]
    found: list[Task] = []
    for section in sections:
        weight = SECTIONS[section]
        if section == "engine":
            found += [Task(section, weight * share, choice) for share, choice in steps]
        elif section in OF_MODELS:
            choices = [Choice(model, (), first, compiled=compiled) for model in models]
            found += [Task(section, weight, choice) for choice in choices]
        else:
            found.append(Task(section, weight))
    return found


def seconds_of(task: Task, following: Sequence[Task], left: float) -> float:
    """Its share of the time that is left for it and for those that follow, within its bounds."""
    shared = task.weight + sum(other.weight for other in following)
    least = LEAST.get(task.section, LEAST_OF_OTHERS)
    return min(left, MOST.get(task.section, left), max(least, left * task.weight / shared))


def _listed(said: str) -> tuple[str, ...]:
    return tuple(word for word in said.split(",") if word)
