"""TensorRT itself, imported when it is needed: a logger that remembers, and engines from plans.

Every call here and in `export.tensorrt` exists unchanged from TensorRT 10.0 to 11.4. TensorRT answers None or False
where it fails and says why only to its logger, so the logger's last errors go into the exception.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import re
from collections import deque
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from clipfast.errors import BuildError, DependencyError, UnsupportedError
from clipfast.runtimes.plan import EngineSidecar, PlanHeader, read_plan_header

if TYPE_CHECKING:
    import tensorrt as trt

_log = logging.getLogger("clipfast.tensorrt")

INSTALL = (
    "pip install tensorrt-cu13 (its wheels come from NVIDIA's own index), or use NVIDIA's TensorRT container; "
    "`clipfast export` and ONNX Runtime need neither"
)


def import_tensorrt() -> Any:
    """The tensorrt module. Raises: DependencyError, naming what is missing."""
    try:
        return importlib.import_module("tensorrt")
    except ModuleNotFoundError as error:
        raise DependencyError(f"TensorRT is not installed ({error}); {INSTALL}") from None
    except ImportError as error:
        library = re.search(r"lib\w+\.so[.\d]*", str(error))
        missing = f"{library[0]} of the package tensorrt-cu13-libs" if library else "its libraries"
        raise DependencyError(
            f"TensorRT's Python bindings are installed and cannot load {missing}: {error}; {INSTALL}"
        ) from None


@cache
def tensorrt_logger() -> Any:
    """The process's one TensorRT logger: TensorRT keeps the first that it is given, and ignores others.

    It passes messages on to logging.getLogger("clipfast.tensorrt"), and `tail()` is its last errors.
    """
    trt = import_tensorrt()
    levels = {
        trt.ILogger.Severity.INTERNAL_ERROR: logging.CRITICAL,
        trt.ILogger.Severity.ERROR: logging.ERROR,
        trt.ILogger.Severity.WARNING: logging.WARNING,
        trt.ILogger.Severity.INFO: logging.INFO,
        trt.ILogger.Severity.VERBOSE: logging.DEBUG,
    }

    class CapturingLogger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=50)

        def log(self, severity: Any, msg: str) -> None:
            level = levels[severity]
            if level >= logging.ERROR:
                self.errors.append(msg)
                level = logging.DEBUG  # the exception will say it
            _log.log(level, "%s", msg)

        def tail(self) -> str:
            """The last errors, oldest first."""
            return " | ".join(list(self.errors)[-5:]) or "TensorRT logged no error"

    return CapturingLogger()


def make_or_explain(factory: Any) -> Any:
    """factory(logger), where TensorRT's answer to a missing GPU is a TypeError about a null pointer.

    Raises: DependencyError.
    """
    try:
        return factory(tensorrt_logger())
    except TypeError as error:
        raise DependencyError(
            f"TensorRT needs an NVIDIA GPU and its driver, and none is usable here ({error}; "
            f"{tensorrt_logger().tail()}); `clipfast export` (ONNX) works without one"
        ) from None


def load_engine(path: Path, sidecar: EngineSidecar, device: torch.device) -> trt.ICudaEngine:
    """The engine of a plan, its weights refitted from the ONNX file where the plan was stripped of them.

    Raises:
        DependencyError: no TensorRT, no GPU, another GPU or another version than the plan was built for.
        BuildError: TensorRT refuses the plan all the same.
    """
    trt = import_tensorrt()
    check_plan(path, read_plan_header(path), sidecar, trt.__version__, device)
    logger = tensorrt_logger()
    logger.errors.clear()
    with torch.cuda.device(device):
        runtime = _make_runtime()
        if sidecar.settings["version_compatible"]:
            runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise BuildError(f"{path}: TensorRT cannot load this plan: {logger.tail()}")
        if sidecar.settings["strip_weights"]:
            _refit(engine, path.with_name(sidecar.onnx_file), sidecar.onnx_sha256)
    return engine


def _make_runtime() -> trt.Runtime:
    return make_or_explain(import_tensorrt().Runtime)


def _refit(engine: trt.ICudaEngine, onnx_file: Path, sha256: str) -> None:
    trt, logger = import_tensorrt(), tensorrt_logger()
    if not onnx_file.exists():
        raise DependencyError(
            f"the plan holds no weights and {onnx_file} to read them from is missing; put it beside the plan"
        )
    if hashlib.sha256(onnx_file.read_bytes()).hexdigest() != sha256:
        raise DependencyError(
            f"{onnx_file} is not the file that the plan was built from; build it again"
        )
    refitter = trt.Refitter(engine, logger)
    parser = trt.OnnxParserRefitter(refitter, logger)
    if not parser.refit_from_file(str(onnx_file.resolve())) or not refitter.refit_cuda_engine():
        raise BuildError(f"{onnx_file}: its weights do not fit the plan: {logger.tail()}")


def check_plan(
    path: Path, header: PlanHeader, sidecar: EngineSidecar, installed: str, device: torch.device
) -> None:
    """Whether a plan fits this TensorRT and this GPU, found out before TensorRT says it in its own words.

    Raises: DependencyError; UnsupportedError for plans of TensorRT-RTX.
    """
    if header.compiler != "TensorRT":
        raise UnsupportedError(
            f"{path}: built by {header.compiler} {header.version_text}, which TensorRT {installed} cannot run; "
            "build it with `clipfast build-engine`"
        )
    have = tuple(int(part) for part in re.findall(r"\d+", installed)[:2])
    built_by = header.version[:2]
    if built_by > have or (built_by < have and not sidecar.settings["version_compatible"]):
        raise DependencyError(
            f"{path}: built by TensorRT {header.version_text}, installed is {installed}; build it again here (a plan "
            "built with --version-compat runs in later versions too, never in earlier ones)"
        )
    built_for = sidecar.compute_capability
    if built_for is None or sidecar.settings["hardware_compatibility"] == "ampere+":
        return
    present = torch.cuda.get_device_capability(device)
    if present != built_for:
        raise DependencyError(
            f"{path}: built for compute capability {built_for[0]}.{built_for[1]} ({sidecar.device}), this GPU has "
            f"{present[0]}.{present[1]}; build it again here, or build with --hardware-compat ampere+"
        )
