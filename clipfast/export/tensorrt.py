"""ONNX towers to TensorRT engines: one call sequence for TensorRT 10.0 to 11.4, precision in the graph, not in flags.

    build_engine("out/image.onnx")                      # writes out/image.engine and out/image.engine.json, verified

Everything TensorRT only answers None, False or -1 to is checked here, and raised with its logger's last errors.
"""

from __future__ import annotations

import hashlib
import logging
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import onnx
import torch

from clipfast.errors import BuildError, ConfigurationError, OperatorError, UnsupportedError
from clipfast.export.engine_parity import compare_engine
from clipfast.export.onnx_file import read_graph
from clipfast.export.operators import check_operators
from clipfast.export.parity import Parity
from clipfast.runtimes.metadata import TowerMetadata
from clipfast.runtimes.plan import EngineSidecar, Profile, sidecar_path
from clipfast.runtimes.tensorrt import import_tensorrt, make_or_explain, tensorrt_logger

if TYPE_CHECKING:
    import tensorrt as trt

logger = logging.getLogger("clipfast")

HardwareCompatibility = Literal["none", "same-cc", "ampere+"]
_HARDWARE_LEVELS = {"same-cc": "SAME_COMPUTE_CAPABILITY", "ampere+": "AMPERE_PLUS"}


@dataclass(frozen=True)
class BuildSettings:
    """How an engine is built.

    profiles: batch ranges (smallest, usual, largest) to optimise for; empty takes the export's own.
    workspace: bytes of device memory that tactics may use; None leaves all of it.
    optimization_level: 0 (fastest build) to 5 (fastest engine); TensorRT's default is 3.
    hardware_compatibility: "same-cc" runs on every GPU of this compute capability, "ampere+" on all since Ampere.
    version_compatible: the plan loads in later versions of TensorRT.
    strip_weights: leave the weights out of the plan; they are read from the ONNX file at load.
    """

    profiles: tuple[Profile, ...] = ()
    workspace: int | None = None
    optimization_level: int = 3
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False
    strip_weights: bool = False

    def __post_init__(self) -> None:
        for profile in self.profiles:
            if len(profile) != 3 or not 1 <= profile[0] <= profile[1] <= profile[2]:
                raise ConfigurationError(
                    f"profile {profile}: expected three sizes, 1 <= smallest <= usual <= largest"
                )
        if not 0 <= self.optimization_level <= 5:
            raise ConfigurationError(
                f"optimization_level={self.optimization_level}: expected 0 to 5"
            )
        if self.hardware_compatibility not in ("none", *_HARDWARE_LEVELS):
            raise ConfigurationError(
                f"hardware_compatibility={self.hardware_compatibility!r}: expected none, "
                f"{', '.join(_HARDWARE_LEVELS)}"
            )
        if self.workspace is not None and self.workspace < 1:
            raise ConfigurationError(f"workspace={self.workspace}: expected bytes above 0, or None")


@dataclass(frozen=True)
class EngineReport:
    """What `build_engine` wrote. seconds: of parsing and building. parity: None when it was not asked for."""

    engine: str
    bytes: int
    layers: int
    profiles: tuple[Profile, ...]
    tensorrt_version: str
    device: str | None
    seconds: float
    parity: Parity | None

    def to_dict(self) -> dict[str, Any]:
        parity = None if self.parity is None else self.parity.to_dict()
        return asdict(self) | {"parity": parity}


def build_engine(
    onnx_file: str | Path,
    engine_file: str | Path | None = None,
    *,
    settings: BuildSettings = BuildSettings(),
    timing_cache: str | Path | None = None,
    verify: bool = True,
    calibration: str | Path | None = None,
    device: int = 0,
    force: bool = False,
) -> EngineReport:
    """Builds one tower's engine for the GPU that is here, with its sidecar JSON.

    Args:
        onnx_file: written by `export_onnx`. Its precision is the engine's.
        engine_file: image.engine beside image.onnx when None.
        timing_cache: a file that is read if it exists and written afterwards: later builds are faster.
        verify: run the engine and compare it with the graph in ONNX Runtime; a failed gate leaves no engine.
        calibration: a folder of images and texts to verify with, as in `export_onnx`.
        device: index of the GPU.
        force: replace an engine that is there.
    Raises:
        DependencyError: TensorRT or a GPU is missing. OperatorError: the graph has nodes TensorRT cannot run.
        BuildError: TensorRT refused, with its words. ParityError: the engine computes something else.
        ConfigurationError: a setting is out of range, or the engine exists and not `force`.
        CheckpointError: `onnx_file` is not ONNX, or not an export of clipfast.
    """
    source = Path(onnx_file).resolve()
    engine = source.with_suffix(".engine") if engine_file is None else Path(engine_file)
    if engine.exists() and not force:
        raise ConfigurationError(f"{engine} exists already; pass force (--force) to replace it")
    model = read_graph(source)
    described = _describe(model, source)
    check_operators(model, source.name)
    profiles = settings.profiles or (described.batch,)
    if torch.cuda.is_available():
        torch.cuda.set_device(device)
    start = time.perf_counter()
    cache = None if timing_cache is None else Path(timing_cache)
    plan, layers = _build(source, described, profiles, settings, cache)
    seconds = round(time.perf_counter() - start, 2)
    sidecar = _sidecar(source, described, plan, profiles, settings, device)
    compare = partial(compare_engine, onnx_file=source, device=device, calibration=calibration)
    parity = _write(engine, plan, sidecar, compare if verify else None)
    version, name = sidecar.tensorrt_version, sidecar.device
    return EngineReport(str(engine), len(plan), layers, profiles, version, name, seconds, parity)


def _write(
    engine: Path, plan: bytes, sidecar: EngineSidecar, compare: Callable[[Path], Parity] | None
) -> Parity | None:
    """The plan and its sidecar under their names, once the engine has been run and compared."""
    engine.parent.mkdir(parents=True, exist_ok=True)
    unverified = engine.with_name(engine.name + ".partial")
    parity = None
    try:
        unverified.write_bytes(plan)
        sidecar.write(unverified)
        if compare is not None:
            parity = compare(unverified)
            parity.require("the engine was not written")
            sidecar = replace(sidecar, parity=parity.to_dict())
        sidecar.write(engine)
        unverified.replace(engine)
    finally:
        unverified.unlink(missing_ok=True)
        sidecar_path(unverified).unlink(missing_ok=True)
    return parity


def _describe(model: onnx.ModelProto, path: Path) -> TowerMetadata:
    return TowerMetadata.from_properties({p.key: p.value for p in model.metadata_props}, path)


def _build(
    source: Path,
    described: TowerMetadata,
    profiles: tuple[Profile, ...],
    settings: BuildSettings,
    cache: Path | None,
) -> tuple[bytes, int]:
    """The plan's bytes and the network's number of layers."""
    trt, log = import_tensorrt(), tensorrt_logger()
    log.errors.clear()
    builder = _make_builder()
    # Strong typing is the only mode of TensorRT 11 and a flag of 10, whose bit is not the same.
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    if network is None:
        raise BuildError(f"{source.name}: TensorRT made no network: {log.tail()}")
    _parse(source, network)
    config = builder.create_builder_config()
    _configure(config, settings)
    for profile in profiles:
        _add_profile(builder, config, network, described, profile)
    timings = _set_timing_cache(config, cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(f"{source.name}: TensorRT built no engine: {log.tail()}")
    if timings is not None and cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_bytes(bytes(config.get_timing_cache().serialize()))
    return bytes(plan), network.num_layers


def _make_builder() -> trt.Builder:
    return make_or_explain(import_tensorrt().Builder)


def _parse(source: Path, network: trt.INetworkDefinition) -> None:
    """From the file, not from memory: only so does the parser find external data."""
    trt, log = import_tensorrt(), tensorrt_logger()
    parser = trt.OnnxParser(network, log)
    if parser.parse_from_file(str(source)) and network.num_outputs > 0:
        return
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    said = [_describe_error(error) for error in errors]
    kind = OperatorError if any(_is_unsupported(error) for error in errors) else BuildError
    raise kind(f"{source.name}: TensorRT cannot parse it: {'; '.join(said) or log.tail()}")


def _is_unsupported(error: trt.ParserError) -> bool:
    return str(error.code()).startswith("ErrorCode.UNSUPPORTED")


def _describe_error(error: trt.ParserError) -> str:
    return f"{error.node_name()} ({error.node_operator()}): {error.desc()}"


def _configure(config: trt.IBuilderConfig, settings: BuildSettings) -> None:
    trt = import_tensorrt()
    config.builder_optimization_level = settings.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if settings.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace)
    if settings.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if settings.strip_weights:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
    if settings.hardware_compatibility != "none":
        name = _HARDWARE_LEVELS[settings.hardware_compatibility]
        level = getattr(trt.HardwareCompatibilityLevel, name, None)
        if level is None:
            raise UnsupportedError(
                f"hardware_compatibility={settings.hardware_compatibility!r} needs TensorRT 10.9, installed is "
                f"{trt.__version__}"
            )
        config.hardware_compatibility_level = level


def _add_profile(
    builder: trt.Builder,
    config: trt.IBuilderConfig,
    network: trt.INetworkDefinition,
    described: TowerMetadata,
    batches: Profile,
) -> None:
    """set_shape takes unknown names and reversed ranges without a word, so names and answers are checked here."""
    names = [network.get_input(i).name for i in range(network.num_inputs)]
    if names != [described.input_name]:
        raise BuildError(f"the graph's inputs are {names}, expected {described.input_name}")
    profile = builder.create_optimization_profile()
    shapes = [(batch, *described.row_shape) for batch in batches]
    profile.set_shape(names[0], shapes[0], shapes[1], shapes[2])
    if not profile or config.add_optimization_profile(profile) < 0:
        raise BuildError(f"profile {batches}: TensorRT refused it: {tensorrt_logger().tail()}")


def _set_timing_cache(config: trt.IBuilderConfig, path: Path | None) -> trt.ITimingCache | None:
    """The cache must outlive the build."""
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    if cache is None or not config.set_timing_cache(cache, False):
        raise BuildError(
            f"{path}: not a timing cache of this TensorRT and GPU ({tensorrt_logger().tail()}); use another file"
        )
    return cache


def _sidecar(
    source: Path,
    described: TowerMetadata,
    plan: bytes,
    profiles: tuple[Profile, ...],
    settings: BuildSettings,
    device: int,
) -> EngineSidecar:
    present = torch.cuda.is_available()
    return EngineSidecar(
        properties=described.to_properties(),
        tensorrt_version=import_tensorrt().__version__,
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        plan_bytes=len(plan),
        onnx_file=source.name,
        onnx_sha256=hashlib.sha256(source.read_bytes()).hexdigest(),
        profiles=profiles,
        settings=asdict(settings),
        device=torch.cuda.get_device_name(device) if present else None,
        compute_capability=torch.cuda.get_device_capability(device) if present else None,
        cuda_version=torch.version.cuda,
        platform=f"{platform.system()} {platform.machine()}",
    )
