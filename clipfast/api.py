"""`load`, and the model it returns: the face of clipfast."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from clipfast import templates
from clipfast.calibration import EIGHT_BIT, store
from clipfast.config import Activation, ModelConfig
from clipfast.encoder import Encoder, TowerEncoder
from clipfast.errors import ConfigurationError, InputError, UnsupportedError
from clipfast.hidden_states import Layer, image_tokens, text_tokens
from clipfast.inputs import EXACT, Decode, DecodeOptions, preprocess_image
from clipfast.loading import LoadArguments, Loaded, load_engine, unsupported_precision
from clipfast.ops import Tensor
from clipfast.text_batches import TextStatistics
from clipfast.zero_shot import ZeroShotClassifier, load_classifier, zero_shot_classifier

if TYPE_CHECKING:
    from clipfast.export.options import ExportReport

logger = logging.getLogger("clipfast")


def load(
    source: str | Path,
    *,
    device: str | torch.device = "auto",
    precision: str = "auto",
    backend: str = "auto",
    architecture: str | None = None,
    activation: Activation | None = None,
    threads: int | None = None,
    batch_invariant: bool = False,
    resize: Literal["host", "device"] = "host",
    streams: int | None = None,
) -> Model:
    """A model ready to encode.

    Args:
        source: a published name ("ViT-B/32"), a "model/pretrained" pair ("ViT-B-32/laion2b_s34b_b79k"),
            "hf-hub:org/name", a weight file, a directory, "demo" (the small model in the package), or an exported
            directory, .onnx or .engine file.
        device: auto, cpu, cuda, cuda:N, or cuda:all, which shares each batch among all GPUs. A CUDA device that was
            asked for and is missing is an error.
        precision: auto, fp32, bf16, fp16, int8 on the CPU and on GPUs, fp8 on GPUs from compute capability 8.9 on (and
            fp64, for checking). auto is bf16 where the hardware has it, else fp32; or the 8-bit precision that
            `Model.calibrate` found good enough for these weights.
        backend: auto, reference, cpu, triton, cuda; for exports auto, onnxruntime, tensorrt. A named backend that
            cannot serve is an error, never replaced.
        architecture: family of a file whose tensors do not tell heads, activation or preprocessing ("ViT-H-14").
        activation: "gelu" or "quick_gelu", over what the file or the table says.
        threads: CPU threads that compute, for this process (torch has one pool). None leaves it as it is, but for those
            beyond the processors that the process may use, by affinity and by its control group's quota.
        batch_invariant: a row's bits never depend on its batch: items are computed one at a time, which is slower.
        resize: where decoded images are resized: "host", by the threads that decode, or "device", a GPU, to the same
            bits. The second is for hosts with few cores; it takes pinned memory of 3.75 MiB for each image of a batch.
        streams: batches that the CPU computes at once, each with its share of the threads: more a second, each later.
            One batch alone has all threads. None is 2 where the products in C++ serve and the threads are even, else 1;
            with batch_invariant it is 1, and exports have their own.
    Raises:
        CheckpointError: the weights cannot be loaded. UnsupportedError: device, precision or backend cannot serve.
        ConfigurationError: an argument has an unknown value.
    """
    return _load(
        LoadArguments(
            source=str(source),
            device=str(device),
            precision=precision,
            backend=backend,
            architecture=architecture,
            activation=activation,
            threads=threads,
            batch_invariant=batch_invariant,
            resize=resize,
            streams=streams,
        )
    )


def _decode_options(decode: Decode | DecodeOptions) -> DecodeOptions:
    if isinstance(decode, DecodeOptions):
        return decode
    return EXACT if decode == EXACT.decode else DecodeOptions(decode=decode)


def _load(arguments: LoadArguments) -> Model:
    return Model(arguments, load_engine(arguments))


class Model:
    """One CLIP model: images and texts to rows of a shared space.

    Several threads may use one model. It pickles as the arguments of its `load`, so workers load it themselves.
    """

    def __init__(self, arguments: LoadArguments, loaded: Loaded) -> None:
        self._arguments = arguments
        self._engine = loaded.engine
        self._fingerprint = loaded.fingerprint
        self.precision = loaded.precision
        self.backend = loaded.backend

    def __reduce__(self) -> tuple[object, ...]:
        return _load, (self._arguments,)

    def __repr__(self) -> str:
        return f"Model({self.config.name!r}, {self.precision}, {self.device}, backend={self.backend!r})"

    @property
    def config(self) -> ModelConfig:
        """Architecture and preprocessing."""
        return self._encoder.config

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self._encoder.device

    @property
    def logit_scale(self) -> float:
        """The factor of cosines before the softmax, exponentiated (100.0 for the published weights)."""
        return self._encoder.logit_scale

    @property
    def fingerprint(self) -> str:
        """Identity of the weights: equal for equal tensors, whatever file they came from."""
        return self._fingerprint()

    @property
    def last_errors(self) -> list[InputError]:
        """The images that failed in this thread's last encode_images(errors="null"), with index, code and message."""
        return self._engine.last_errors

    @property
    def last_text_statistics(self) -> TextStatistics:
        """Texts, tokens given and rows encoded in this thread's last encode_texts."""
        return self._engine.last_text_statistics

    @property
    def _encoder(self) -> Encoder:
        return self._engine.encoder

    # ---- encoding --------------------------------------------------------------------------------------------

    def encode_images(
        self,
        images: Any,
        *,
        batch_size: int | None = None,
        normalize: bool = True,
        errors: Literal["raise", "null"] = "raise",
        progress: bool = False,
        num_workers: int | None = None,
        output_device: str | torch.device | None = None,
        decode: Decode | DecodeOptions = "exact",
    ) -> Tensor:
        """Image embeddings, in input order.

        Args:
            images: a list or iterable of paths, bytes, binary file objects, PIL images, uint8 (H, W, 3) arrays or
                tensors; or one uint8 batch (N, H, W, 3) or (N, 3, H, W), numpy, torch or `__dlpack__`, in [0, 255];
                or float (3, R, R) / (N, 3, R, R) that is preprocessed and normalised already.
            batch_size: images a batch; None chooses by device.
            normalize: rows of unit length.
            errors: "raise" stops at the first bad image; "null" gives it a row of NaN and lists it in last_errors.
            progress: a bar on stderr.
            num_workers: threads that decode and resize; None is one a core.
            output_device: of the result; None is the inputs' device.
            decode: "exact" is Pillow's full decoding; "fast" lets large JPEG files decode at a fraction of their size;
                "torchcodec" and "nvimagecodec", which have to be installed, decode JPEG on a GPU, not to Pillow's bits.
                `clipfast.inputs.DecodeOptions` also sets limits, formats and EXIF orientation.
        Returns: (N, E) float32.
        Raises: InputError with .index and .code.
        """
        return self._engine.encode_images(
            images,
            batch_size=batch_size,
            normalize=normalize,
            errors=errors,
            progress=progress,
            num_workers=num_workers,
            output_device=output_device,
            decode=_decode_options(decode),
        )

    def encode_texts(
        self,
        texts: Iterable[str],
        *,
        batch_size: int | None = None,
        normalize: bool = True,
        truncate: bool = False,
        share_prefixes: bool | None = None,
        progress: bool = False,
        output_device: str | torch.device | None = None,
    ) -> Tensor:
        """Text embeddings, in input order.

        Args:
            texts: an iterable of str.
            batch_size: most texts a batch; None limits a batch by its tokens alone.
            normalize: rows of unit length.
            truncate: cut a text longer than context_length tokens (its last token becomes EOT), where False raises.
            share_prefixes: encode each prefix once (True), each text apart (False), or whichever is less work (None).
            progress: a bar on stderr.
            output_device: of the result; None is the CPU.
        Returns: (N, E) float32.
        Raises: InputError text_too_long, invalid_text or wrong_type, with .index.
        """
        return self._engine.encode_texts(
            texts,
            batch_size=batch_size,
            normalize=normalize,
            truncate=truncate,
            share_prefixes=share_prefixes,
            progress=progress,
            output_device=output_device,
        )

    def encode_tokens(self, ids: npt.NDArray[np.int32], *, normalize: bool = True) -> Tensor:
        """Embeddings of texts that are tokenized already.

        Args:
            ids: (N, context_length) integers, each row with an EOT; what follows it is ignored.
        Returns: (N, E) float32 on the CPU.
        Raises: InputError wrong_shape or invalid_text, with .index.
        """
        return self._engine.encode_tokens(ids, normalize=normalize)

    def classify(
        self,
        images: Any,
        labels: Sequence[str],
        templates: Sequence[str] = templates.DEFAULT,
        **options: Any,
    ) -> Tensor:
        """Zero-shot probabilities of `labels`: (N, M) float32, rows sum to 1. options: as encode_images."""
        return self.zero_shot_classifier(labels, templates=templates).classify(images, **options)

    def zero_shot_classifier(
        self,
        labels: Sequence[str],
        templates: Sequence[str] = templates.DEFAULT,
        *,
        progress: bool = False,
    ) -> ZeroShotClassifier:
        """A classifier to keep: the labels' embeddings, averaged over templates, each with "{}" for the label."""
        return zero_shot_classifier(self, labels, templates, progress=progress)

    def load_classifier(self, path: str | Path) -> ZeroShotClassifier:
        """The classifier that `ZeroShotClassifier.save` wrote for this model."""
        return load_classifier(self, path)

    # ---- hidden states ---------------------------------------------------------------------------------------

    def image_tokens(self, images: Any, layer: Layer = -1) -> Tensor:
        """Hidden states of the vision transformer, class row first: (N, L, D) float32.

        Args:
            images: as encode_images.
            layer: i is transformers' `hidden_states[i]` (0 before the first block, -1 after the last, no final
                norm); "final" is its `last_hidden_state`, which for images is the same as -1.
        Raises: UnsupportedError for ResNets and exported engines; ConfigurationError for an unknown layer.
        """
        return image_tokens(self._engine, images, layer)

    def text_tokens(self, texts: Sequence[str], layer: Layer = -1, pad_id: int = 0) -> Tensor:
        """Hidden states of the text transformer, padded to context_length: (N, context_length, D) float32.

        Args:
            texts: N str.
            layer: as image_tokens; "final" is after the final norm.
            pad_id: the token that fills the rows after EOT (0 as the reference tokenizer, 49407 as transformers).
        Raises: UnsupportedError for exported engines; ConfigurationError for an unknown layer; InputError.
        """
        return text_tokens(self._engine, texts, layer, pad_id)

    # ---- preparation -----------------------------------------------------------------------------------------

    def preprocess(self, image: object) -> npt.NDArray[np.uint8]:
        """One image, of any kind that encode_images takes, to (3, R, R) uint8. Safe in forked workers.

        Raises: InputError with .code.
        """
        return preprocess_image(image, self.config.preprocess, self.config.vision.image_size)

    def tokenize(self, texts: str | Sequence[str], truncate: bool = False) -> npt.NDArray[np.int32]:
        """(N, context_length) int32 zero-padded tokens. Safe in forked workers. Raises: InputError."""
        return self._engine.tokenizer.tokenize(texts, self.config.text.context_length, truncate)

    def describe(self) -> dict[str, Any]:
        """What runs where and why: model, device, precision, the backend of each operation, and the batches.

        On a GPU the batches say what was computed from its multiprocessors, which sizes have a graph, and what its
        memory allows.
        """
        encoder = self._encoder
        return {
            "model": self.config.name,
            "device": str(self.device),
            "precision": self.precision,
            "backend": self.backend,
            "operations": encoder.ops.describe() if isinstance(encoder, TowerEncoder) else {},
            "batches": self._engine.describe(),
        }

    def calibrate(self, images: Sequence[Any], texts: Sequence[str]) -> dict[str, dict[str, float]]:
        """Measure what 8-bit precisions cost these inputs, and keep it beside the weights.

        Where every row keeps a cosine of 0.999 to its fp32 row, `load` with precision="auto" takes that precision from
        then on, on devices that serve it. A few hundred inputs like those in production are enough; the weights are
        loaded again, in fp32 and in each 8-bit precision.

        Args:
            images: as encode_images, at least one. texts: at least one.
        Returns: "int8", "fp8" as this device serves them -> the lowest cosine to fp32, of "images" and of "texts".
        Raises: UnsupportedError for exports, and where this device serves no 8-bit precision; ConfigurationError
            without images or texts, or where the folder of the weights cannot be written to; InputError.
        """
        if not isinstance(self._encoder, TowerEncoder):
            raise UnsupportedError(
                f"{self!r} is an export, whose precision is fixed; calibrate from the weights"
            )
        if not len(images) or not len(texts):
            raise ConfigurationError(
                f"calibrate needs images and texts, got {len(images)} and {len(texts)}"
            )
        where = self.device, self._arguments.backend
        served = [name for name in EIGHT_BIT if unsupported_precision(name, *where) is None]
        if not served:
            raise UnsupportedError(
                f"backend {self.backend} on {self.device} serves no 8-bit precision: there is nothing to calibrate"
            )

        def rows(precision: str) -> dict[str, Tensor]:
            model = _load(replace(self._arguments, precision=precision))
            return {"images": model.encode_images(images), "texts": model.encode_texts(texts)}

        exact = rows("fp32")
        cosines = {
            name: {
                kind: float(torch.linalg.vecdot(found, exact[kind].to(found.device)).min())
                for kind, found in rows(name).items()
            }
            for name in served
        }
        logger.info("calibration in %s", store(self._arguments.read_checkpoint(), cosines))
        return cosines

    def export_onnx(self, directory: str | Path, **options: Any) -> ExportReport:
        """Verified ONNX towers in `directory`. options and errors: as `clipfast.export.onnx.export_onnx`."""
        from clipfast.export.onnx import export_onnx  # onnx is an extra

        if not isinstance(self._encoder, TowerEncoder):
            raise UnsupportedError(f"{self!r} is an export itself; export from the weights")
        return export_onnx(self._arguments.read_checkpoint(), directory, **options)

    def warmup(self, batch_size: int | Sequence[int] = 1) -> Model:
        """Run one batch of each kind and size, so that the next call pays no first-use cost. Returns the model.

        On a GPU kernels are compiled, and the graphs of these sizes captured.
        """
        size = self.config.vision.image_size
        for count in [batch_size] if isinstance(batch_size, int) else batch_size:
            self.encode_images(np.zeros((count, 3, size, size), np.uint8))
            self.encode_texts(["warm up"] * count)
        return self

    def release(self) -> None:
        """Give graphs, pinned buffers and cached memory back to the device; what is used again is made again."""
        self._engine.release()
