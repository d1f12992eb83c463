"""A checkpoint as ONNX towers: authored, checked, compared with the model, and only then given their names.

    report = export_onnx(load_checkpoint("ViT-B/32"), "vit-b-32-onnx", dtype="fp16", target="tensorrt")

Target "tensorrt" differs from "onnxruntime" in two ways: the last block attends from every row (one fused kernel there,
wasted work here), and an int8 graph computes the rest in float16, not float32.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import onnx
import torch

from clipfast.checkpoint import Checkpoint
from clipfast.checkpoint.folds import fold
from clipfast.errors import ConfigurationError, OperatorError, UnsupportedError
from clipfast.export.graph import Graph
from clipfast.export.onnx_file import opset_for, read_graph, write_onnx
from clipfast.export.operators import check_operators
from clipfast.export.options import ExportOptions, ExportReport, TowerChoice, TowerExport
from clipfast.export.parity import GATES, Parity, batches_to_check, measure, reference_rows
from clipfast.export.quantize import RECIPE, Calibration, QuantizedGraph
from clipfast.export.samples import Samples, packaged_samples, read_samples
from clipfast.export.smooth import smooth
from clipfast.export.towers import author_tower
from clipfast.export.widen import write_float32_twin
from clipfast.inputs.tokenizer_file import holds_clip_vocabulary
from clipfast.parameters import Parameters
from clipfast.runtimes.metadata import (
    BatchRange,
    ExportDtype,
    ExportTarget,
    PixelInput,
    TowerMetadata,
    TowerName,
)
from clipfast.runtimes.onnxruntime import OnnxTower

logger = logging.getLogger("clipfast")

REPORT = "export.json"


def export_onnx(
    checkpoint: Checkpoint,
    directory: str | Path,
    *,
    tower: TowerChoice = "both",
    dtype: ExportDtype = "fp32",
    input: PixelInput = "uint8",  # noqa: A002  (the option's name everywhere)
    batch: BatchRange = (1, 8, 64),
    target: ExportTarget = "onnxruntime",
    layer_norm_fp32: bool = True,
    calibration: str | Path | None = None,
    force: bool = False,
) -> ExportReport:
    """Writes image.onnx and text.onnx (with .data files when large) and export.json, or nothing.

    Args:
        directory: made when it is missing.
        tower: "image", "text" or "both".
        dtype: of the matrices; "int8" quantises the blocks (`quantize`), calibrated on half of the samples.
        input: "uint8" pixels in [0, 255], normalised inside, or "float" ones that are normalised already.
        batch: smallest, usual and largest; any batch runs, these are what is verified and what engines are built for.
        target: "onnxruntime" or "tensorrt".
        layer_norm_fp32: LayerNorm between casts in float32 where `dtype` is smaller.
        calibration: a folder of images and .txt files to verify (and for int8 to calibrate) with; None takes the
            demo's images and prompts.
        force: replace files that are there.
    Raises:
        ConfigurationError: an argument is not as described, or a file exists and not `force`.
        OperatorError: TensorRT could not run the graph. ParityError: the gate is not met. Nothing is written then.
        DependencyError: ONNX Runtime is missing. UnsupportedError: a weight does not fit float16, or texts have
        another vocabulary than CLIP's.
    """
    options = ExportOptions(tower, dtype, input, batch, target, layer_norm_fp32)
    samples = packaged_samples() if calibration is None else read_samples(Path(calibration))
    folder = Path(directory)
    _refuse_to_overwrite(folder, options, force)
    _refuse_another_vocabulary(checkpoint, options)
    parameters = fold(checkpoint.tensors, checkpoint.config, torch.float32)
    exporter = _Exporter(checkpoint, parameters, options, samples)
    with _staging(folder) as staged:
        towers = tuple(exporter.export(name, staged) for name in options.towers)
        report = ExportReport(
            str(folder), checkpoint.config.name, checkpoint.source, options, towers
        )
        (staged / REPORT).write_text(json.dumps(report.to_dict(), indent=2) + "\n")
    _remove_what_it_replaced(folder, towers)
    return report


def _refuse_another_vocabulary(checkpoint: Checkpoint, options: ExportOptions) -> None:
    file = checkpoint.tokenizer_file
    if file is not None and "text" in options.towers and not holds_clip_vocabulary(file):
        raise UnsupportedError(
            f"{file}: not CLIP's vocabulary, with which an exported text tower is used; export tower='image', and "
            "encode texts with the weights themselves"
        )


def _remove_what_it_replaced(folder: Path, towers: tuple[TowerExport, ...]) -> None:
    """Data files and engines of the graphs that stood here before."""
    for tower in towers:
        name = tower.tower
        for stale in (f"{name}.onnx.data", f"{name}.engine", f"{name}.engine.json"):
            if stale not in tower.files and (folder / stale).exists():
                logger.warning("%s: removed, it belonged to the replaced graph", folder / stale)
                (folder / stale).unlink()


class _Exporter:
    def __init__(
        self,
        checkpoint: Checkpoint,
        parameters: Parameters,
        options: ExportOptions,
        samples: Samples,
    ) -> None:
        self.checkpoint, self.config = checkpoint, checkpoint.config
        self.parameters, self.options = parameters, options
        self.verifying = samples.every_other(1)
        self.calibrating = samples.every_other(0)

    def export(self, tower: TowerName, folder: Path) -> TowerExport:
        """One tower, written to the folder and verified there."""
        start = time.perf_counter()
        described = self.describe(tower)
        graph, parameters = self.make_graph(tower)
        author_tower(graph, tower, parameters, self.config, self.options.pixels)
        path = folder / f"{tower}.onnx"
        files = write_onnx(graph, path, described.to_properties(), described.clipfast_version)
        logger.info("%s: %d nodes, checking", path.name, len(graph.nodes))
        check_graph(path)
        parity = self.compare(path, described)
        parity.require("nothing was written")
        return TowerExport(
            tower=tower,
            files=tuple(file.name for file in files),
            bytes=sum(file.stat().st_size for file in files),
            nodes=len(graph.nodes),
            opset=described.opset,
            seconds=round(time.perf_counter() - start, 2),
            parity=parity,
        )

    def describe(self, tower: TowerName) -> TowerMetadata:
        options = self.options
        return TowerMetadata(
            tower=tower,
            config=self.config,
            logit_scale=self.parameters.logit_scale,
            dtype=options.dtype,
            pixels=options.pixels if tower == "image" else "uint8",
            batch=options.batch,
            opset=opset_for(options.graph_dtype),
            source=_source_name(self.checkpoint.source),
            fingerprint=self.checkpoint.fingerprint,
            target=options.target,
            clipfast_version=metadata.version("clipfast"),
            layer_norm_fp32=options.layer_norm_fp32,
            quantisation=RECIPE if options.dtype == "int8" else "",
        )

    def make_graph(self, tower: TowerName) -> tuple[Graph, Parameters]:
        """An empty graph, and the parameters to author in it."""
        options, parameters = self.options, self.parameters
        form: dict[str, bool] = {
            "layer_norm_fp32": options.layer_norm_fp32,
            "whole_attention": options.target == "tensorrt",
        }
        name = f"{self.config.name} {tower}"
        if options.dtype != "int8":
            return Graph(name, options.graph_dtype, **form), parameters
        if self.verifying.packaged:
            logger.warning(
                "int8 is calibrated with the demo's drawings; give calibration=DIR (--calibration) images and texts "
                "like those you will encode"
            )
        parameters = smooth(parameters, self.calibrate(tower, parameters).channel_ranges)
        scales = self.calibrate(tower, parameters).scales()
        return QuantizedGraph(name, options.graph_dtype, scales, **form), parameters

    def calibrate(self, tower: TowerName, parameters: Parameters) -> Calibration:
        calibration = Calibration(parameters)
        reference_rows(tower, parameters, self.config, self.calibrating, calibration.ops)
        return calibration

    def compare(self, path: Path, described: TowerMetadata) -> Parity:
        """The written file in ONNX Runtime against the reference towers."""
        tower = described.tower
        expected = reference_rows(tower, self.parameters, self.config, self.verifying)
        rows = self.verifying.rows(tower, self.config, described.pixels)
        compared = "ONNX Runtime against the float32 model"
        if described.dtype == "bf16":
            compared = "the float32 twin with bf16-rounded weights in ONNX Runtime against the float32 model"
        with _runnable(path, described) as runnable:
            run = OnnxTower(runnable, torch.device("cpu"))
            checked = batches_to_check(described.batch)
            batches, neighbours, centred = measure(run, rows, expected, checked)
        gate = GATES[described.dtype]
        logger.info("%s: smallest cosine %.6f", path.name, min(b.cosine_min for b in batches))
        return Parity(
            tower,
            described.dtype,
            gate,
            compared,
            self.verifying.origin,
            len(rows),
            batches,
            neighbours,
            centred,
        )


def _source_name(source: str) -> str:
    """A path without its folders, which would say whose machine it was; any other name as it is."""
    return Path(source).name if Path(source).exists() else source


def check_graph(path: Path) -> None:
    """ONNX's own checker, strict inference of types and shapes, and TensorRT's operators. Raises: OperatorError."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise OperatorError(f"{path.name}: not valid ONNX: {error}") from None
    check_operators(read_graph(path), path.name)


@contextmanager
def _runnable(path: Path, described: TowerMetadata) -> Iterator[Path]:
    """The file that ONNX Runtime's CPU provider can run: the graph itself, or the twin of a bfloat16 one."""
    if described.dtype != "bf16":
        yield path
        return
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        yield write_float32_twin(path, Path(folder) / "twin.onnx")


def _refuse_to_overwrite(folder: Path, options: ExportOptions, force: bool) -> None:
    present = [f"{tower}.onnx" for tower in options.towers if (folder / f"{tower}.onnx").exists()]
    if present and not force:
        raise ConfigurationError(
            f"{folder}: {' and '.join(present)} exist already; pass force (--force) to replace them"
        )


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A hidden folder beside the final names; what is in it takes them when the block succeeds, data files first."""
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=".export-", dir=folder))
    try:
        yield staged
        for file in sorted(staged.iterdir(), key=lambda file: file.suffix != ".data"):
            file.replace(folder / file.name)
    except BaseException:
        shutil.rmtree(staged)
        if made:
            folder.rmdir()
        raise
    staged.rmdir()
