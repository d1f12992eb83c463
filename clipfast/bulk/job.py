"""job.json: what an output is the result of. A run of anything else on it is refused."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipfast.bulk.durable import TEMPORARY, sync_folder
from clipfast.bulk.plan import Plan
from clipfast.bulk.settings import Settings
from clipfast.bulk.shard import MODALITIES
from clipfast.config import ModelConfig
from clipfast.errors import ClipfastError, ConfigurationError

if TYPE_CHECKING:
    from clipfast.api import Model

VERSION = 1
NAME = "job.json"


@dataclass(frozen=True)
class Job:
    """All that the rows depend on.

    model: name, weights (fingerprint), width, precision and preprocessing. decode: of DecodeOptions.
    modalities: images, texts.
    items, shards and inputs (digest): of the plan.
    """

    model: dict[str, Any]
    decode: dict[str, Any]
    modalities: list[str]
    format: str
    batch_size: int
    shard_size: int
    items: int
    shards: int
    inputs: str
    version: int = field(default=VERSION)

    @property
    def digest(self) -> str:
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def digits(self) -> int:
        """Of a shard's number in file names; five, or as many as the largest needs."""
        return max(5, len(str(max(self.shards - 1, 0))))


@dataclass(frozen=True)
class ModelFacts:
    """What is told about a loaded model. device: its type."""

    config: ModelConfig
    weights: str
    precision: str
    backend: str
    device: str


def facts_of(model: Model) -> ModelFacts:
    return ModelFacts(
        model.config, model.fingerprint, model.precision, model.backend, model.device.type
    )


def job_of(facts: ModelFacts, plan: Plan, settings: Settings, batch_size: int) -> Job:
    """The job of embedding a plan with a model."""
    config = facts.config
    described = {
        "name": config.name,
        "weights": facts.weights,
        "width": config.embed_dim,
        "precision": facts.precision,
        "preprocessing": asdict(config.preprocess) | {"size": config.vision.image_size},
        "context_length": config.text.context_length,
    }
    # Tuples become lists, as they are when read back.
    described, decode = json.loads(json.dumps([described, asdict(settings.decode)]))
    return Job(
        described,
        decode,
        [kind for kind in MODALITIES if kind in settings.modalities],
        settings.format,
        batch_size,
        plan.shard_size,
        plan.count,
        plan.shards,
        plan.digest,
    )


def read_job(folder: Path) -> Job | None:
    """The job that an output belongs to, or None when there is none yet.

    Raises:
        ClipfastError: job.json was written by another version, or by something else.
    """
    path = folder / NAME
    try:
        fields = json.loads(path.read_bytes())
        if fields.get("version") != VERSION:
            raise ClipfastError(
                f"{path} is of version {fields.get('version')}; this clipfast reads version {VERSION}"
            )
        return Job(**fields)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError) as error:
        raise ClipfastError(
            f"{path} is damaged ({error}); pass --overwrite, or another output"
        ) from None


def claim(folder: Path, job: Job) -> None:
    """Make the output that of `job`; the first of several processes writes job.json, the others compare.

    Raises:
        ConfigurationError: it is another job's; says in what they differ.
    """
    path = folder / NAME
    temporary = folder / f"{NAME}.{socket.gethostname()}.{os.getpid()}{TEMPORARY}"
    try:
        with temporary.open("w") as file:
            json.dump(asdict(job), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
        sync_folder(folder)
    except FileExistsError:
        found = read_job(folder)
        if found is not None and found != job:
            raise ConfigurationError(_differences(folder, found, job)) from None
    finally:
        temporary.unlink(missing_ok=True)


def _differences(folder: Path, found: Job, job: Job) -> str:
    old, new = asdict(found), asdict(job)
    old |= {f"model {name}": value for name, value in old.pop("model").items()}
    new |= {f"model {name}": value for name, value in new.pop("model").items()}
    parts = [
        f"{name} was {old.get(name)!r} and is {new.get(name)!r}"
        for name in new
        if old.get(name) != new.get(name)
    ]
    return (
        f"{folder} holds another job: {'; '.join(parts)}. Pass the same inputs and options to go on with it, "
        "--overwrite to replace it, or another output"
    )
