"""What `clipfast.load` was asked for, and the engine that it makes of that."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from clipfast import environment
from clipfast.backends import select_ops
from clipfast.backends.eight_bit import in_8_bits, parameters_in_8_bits
from clipfast.calibration import LEAST_COSINE, calibrated
from clipfast.checkpoint import Checkpoint, load_checkpoint
from clipfast.checkpoint.folds import fold
from clipfast.checkpoint.pages import forget_freed_memory
from clipfast.config import Activation, ModelConfig
from clipfast.encoder import TowerEncoder
from clipfast.engine import Engine
from clipfast.errors import ConfigurationError, UnsupportedError
from clipfast.inputs import load_tokenizer
from clipfast.inputs.pipeline import available_processors
from clipfast.inputs.tokenizer_file import tokenizer_of
from clipfast.ops import Ops
from clipfast.parameters import Parameters, map_tensors
from clipfast.placement import layer_of
from clipfast.precision import DTYPES, compute_dtype, resolve_precision
from clipfast.runtimes.load import is_export, load_runtime
from clipfast.sharded import ShardedEngine, resolve_devices

logger = logging.getLogger("clipfast")


@dataclass(frozen=True)
class LoadArguments:
    """The arguments of `clipfast.load` as plain values, which another process can load from."""

    source: str
    device: str
    precision: str
    backend: str
    architecture: str | None
    activation: Activation | None
    threads: int | None
    batch_invariant: bool
    resize: Literal["host", "device"]
    streams: int | None

    def read_checkpoint(self) -> Checkpoint:
        """The weights of `source`. Raises: CheckpointError."""
        return load_checkpoint(
            self.source, architecture=self.architecture, activation=self.activation
        )


@dataclass(frozen=True)
class Loaded:
    """An engine, and what "auto" came to. fingerprint: computes the identity of the weights."""

    engine: Engine
    precision: str
    backend: str
    fingerprint: Callable[[], str]


def load_engine(arguments: LoadArguments) -> Loaded:
    """The engine of weights or of an export. Raises: as `clipfast.load`."""
    if arguments.resize not in ("host", "device"):
        raise ConfigurationError(f'resize={arguments.resize!r}: expected "host" or "device"')
    if arguments.streams is not None and arguments.streams < 1:
        raise ConfigurationError(
            f"streams={arguments.streams}: expected a positive number, or None"
        )
    _set_threads(arguments.threads)
    places = resolve_devices(arguments.device)
    if not is_export(arguments.source):
        return _load_weights(arguments, places)
    if len(places) > 1:
        raise UnsupportedError(
            f"device={arguments.device!r}: an export runs on one device; pass cuda:0, or load the weights"
        )
    return _load_export(arguments, places[0])


def _set_threads(asked: int | None) -> None:
    """torch's threads: as many as asked for, else no more than there are processors for, by affinity and quota.

    torch counts the machine's; in a container that may use a few of them, the others would only be in the way.
    """
    if asked is not None and asked < 1:
        raise ConfigurationError(f"threads={asked}: expected a positive number, or None")
    usable = available_processors()
    if asked is None and torch.get_num_threads() > usable:
        logger.info("%d threads: what this process may use", usable)
        asked = usable
    if asked is not None:
        torch.set_num_threads(asked)


def _load_weights(arguments: LoadArguments, places: list[torch.device]) -> Loaded:
    """Everything that can be refused without the weights is decided before they are read."""
    precision = resolve_precision(arguments.precision, places[0])
    dtype = compute_dtype(precision, places[0])
    ops, eight_bit = _operations(arguments.backend, places[0], precision)
    checkpoint = arguments.read_checkpoint()
    if arguments.precision == "auto":
        backend, place = arguments.backend, places[0]
        found = calibrated(
            checkpoint, lambda name: unsupported_precision(name, place, backend) is None
        )
        if found is not None:
            logger.info("precision %s: calibrated to within %g of fp32", found, LEAST_COSINE)
            precision = found
            ops, eight_bit = _operations(arguments.backend, places[0], precision)
    quantise = None if precision in DTYPES else ops.quantise
    parameters = fold(
        checkpoint.tensors,
        checkpoint.config,
        dtype,
        ops.prepare,
        quantise,
        ops.prepare_convolution,
    )
    checkpoint.forget_pages()
    if eight_bit:
        parameters = parameters_in_8_bits(parameters, precision)
    tokenizer = tokenizer_of(checkpoint.tokenizer_file, checkpoint.config.text)
    engines = [
        Engine(
            _encoder_on(place, checkpoint.config, parameters, ops),
            tokenizer,
            batch_invariant=arguments.batch_invariant,
            layer=layer_of(place),
            device_resize=arguments.resize == "device",
            streams=arguments.streams,
        )
        for place in places
    ]
    forget_freed_memory()
    where = ", ".join(map(str, places))
    logger.info("loaded %s: %s on %s, backend %s", checkpoint.source, precision, where, ops.name)
    if arguments.batch_invariant:
        logger.warning("batch_invariant=True: items are encoded one at a time, at batch-1 speed")
    engine = engines[0] if len(engines) == 1 else ShardedEngine(engines)
    return Loaded(engine, precision, ops.name, lambda: checkpoint.fingerprint)


def _operations(backend: str, device: torch.device, precision: str) -> tuple[Ops, bool]:
    """The operations of a resolved precision, and whether they take `parameters_in_8_bits`.

    Raises: UnsupportedError.
    """
    backend = environment.backend() if backend == "auto" else backend
    ops = select_ops(backend, device=device, dtype=compute_dtype(precision, device))
    if precision in DTYPES or ops.quantise is not None:
        return ops, False
    return in_8_bits(ops, device, precision), True


def unsupported_precision(
    precision: str, device: torch.device, backend: str = "auto"
) -> str | None:
    """None when weights can be loaded in this precision on this device and backend, else the sentence why not."""
    try:
        _operations(backend, device, resolve_precision(precision, device))
    except (ConfigurationError, UnsupportedError) as error:
        return str(error)
    return None


def _encoder_on(
    place: torch.device, config: ModelConfig, parameters: Parameters, ops: Ops
) -> TowerEncoder:
    if place.type != "cpu":
        parameters = map_tensors(parameters, lambda tensor: tensor.to(place))
    return TowerEncoder(config, parameters, ops, place)


def _load_export(arguments: LoadArguments, place: torch.device) -> Loaded:
    """An exported directory or file, on ONNX Runtime or TensorRT."""
    encoder, runtime = load_runtime(
        arguments.source, runtime=arguments.backend, device=place, threads=arguments.threads
    )
    described = encoder.metadata
    described.require(
        source=arguments.source,
        precision=arguments.precision,
        architecture=arguments.architecture,
        activation=arguments.activation,
    )
    engine = Engine(
        encoder,
        load_tokenizer(),
        batch_invariant=arguments.batch_invariant,
        device_resize=arguments.resize == "device",
    )
    return Loaded(engine, described.dtype, runtime, lambda: described.fingerprint)
