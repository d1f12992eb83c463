"""Embedding on a Ray cluster with Ray Data: decoding tasks and encoding actors, two operators that scale apart.

    dataset = ray.data.read_parquet("s3://bucket/images")                     # a column of bytes or paths
    dataset = clipfast.ray.embed(dataset, "ViT-B/32", image_column="jpg", actors=8, num_gpus=1)
    dataset.write_parquet("s3://bucket/embeddings")

`clipfast embed --ray` runs a whole job so, with the files, bits, markers and restarts of one without Ray; OUT and the
inputs must be visible to every node.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clipfast.api import load
from clipfast.bulk.decode import Recipe, decode_items, pack_failures, unpack_failures
from clipfast.bulk.encode import encode_batch
from clipfast.bulk.item import Item
from clipfast.bulk.job import ModelFacts, facts_of
from clipfast.bulk.parquet import item_of
from clipfast.bulk.plan import Plan
from clipfast.bulk.progress import Progress, Summary
from clipfast.bulk.run import builder_of, recipe_of
from clipfast.bulk.session import Work, opened
from clipfast.bulk.settings import Settings
from clipfast.bulk.shard import Modality
from clipfast.errors import InputError

if TYPE_CHECKING:
    from ray.data import Dataset

Row = dict[str, Any]

_COLUMNS: dict[Modality, str] = {"images": "image_embedding", "texts": "text_embedding"}
# Ray fuses neighbours that ask for the same resources into one operator; so the two never do.
_DECODER_PROCESSORS = 0.5


@dataclass(frozen=True)
class Actors:
    """Encoders: how many, and the processors and GPUs of each."""

    count: int = 1
    num_cpus: float = 1
    num_gpus: float = 0

    @property
    def resources(self) -> dict[str, Any]:
        """How they are asked for."""
        from ray.data import ActorPoolStrategy

        compute = ActorPoolStrategy(size=self.count)
        return {"compute": compute, "num_cpus": self.num_cpus, "num_gpus": self.num_gpus}


def embed(
    dataset: Dataset,
    source: str,
    *,
    image_column: str = "image",
    caption_column: str | None = None,
    modalities: Sequence[Modality] = ("images",),
    batch_size: int = 32,
    actors: int = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
    **arguments: Any,
) -> Dataset:
    """The dataset with columns image_embedding and text_embedding, as asked for: (E,) float16 of unit length.

    A row that cannot be embedded has null there, and says why in error_code and error (null elsewhere). A column of
    bytes is dropped, all others stay.

    Args:
        dataset: rows with encoded bytes, {bytes, path} or a path in `image_column`, a str in `caption_column`.
        source, arguments: of `clipfast.load`, in each actor.
        batch_size: rows encoded at once; Ray chooses which.
        actors: encoders. num_cpus, num_gpus: of each.
    """
    kinds = tuple(modalities)
    arguments = {"source": source} | arguments
    encoders = Actors(actors, num_cpus, num_gpus)
    facts = _facts(arguments, kinds, encoders)
    recipe = Recipe(facts.config.preprocess, facts.config.vision.image_size, kinds)
    return dataset.map_batches(
        decode_table,
        batch_size=batch_size,
        batch_format="pyarrow",
        fn_kwargs={"image": image_column, "caption": caption_column, "recipe": recipe},
        num_cpus=_DECODER_PROCESSORS,
    ).map_batches(
        TableEncoder,
        batch_size=batch_size,
        batch_format="pyarrow",
        fn_constructor_args=(arguments, kinds),
        **encoders.resources,
    )


def embed_inputs(
    arguments: dict[str, Any],
    inputs: Sequence[str],
    output: str,
    settings: Settings,
    progress: Progress,
    actors: Actors = Actors(),
) -> Summary:
    """`clipfast.bulk.embed` with decoding and encoding on the cluster; this process lists and writes.

    Args:
        arguments: of `clipfast.load`.
    Raises: as `clipfast.bulk.embed`.
    """
    with opened(inputs, Path(output).absolute(), settings, progress) as session:
        work = session.work_for(_facts(arguments, settings.modalities, actors))
        if work.tasks:
            _write_shards(work, _encoded_slots(work, settings, arguments, actors))
    return progress.finish()


def _encoded_slots(
    work: Work, settings: Settings, arguments: dict[str, Any], actors: Actors
) -> Iterator[Row]:
    """The batches of every task, in order."""
    from ray.data import DataContext, from_items

    DataContext.get_current().execution_options.preserve_order = True
    slots = [
        {"start": slot.start, "stop": slot.stop}
        for task in work.tasks
        for slot in task.batches(work.plan, work.job.batch_size)
    ]
    encoded = (
        from_items(slots)
        .map(
            decode_slot,
            fn_kwargs={"plan": work.plan, "recipe": recipe_of(work, settings)},
            num_cpus=_DECODER_PROCESSORS,
        )
        .map(
            SlotEncoder,
            fn_constructor_args=(arguments, work.modalities),
            **actors.resources,
        )
    )
    return iter(encoded.iter_rows())


def _write_shards(work: Work, rows: Iterator[Row]) -> None:
    width = work.facts.config.embed_dim
    work.progress.start()
    with work.writing() as writer:
        for task in work.tasks:
            builder = builder_of(work, task)
            for slot in task.batches(work.plan, work.job.batch_size):
                row = next(rows)
                told = json.loads(row["told"])
                failures = unpack_failures(told["failures"])
                builder.fill(
                    slot.start - builder.span.start,
                    {
                        kind: np.frombuffer(row[kind], np.float32).reshape(-1, width)
                        for kind in work.modalities
                    },
                    told["names"],
                    told["captions"],
                    failures,
                )
                work.progress.batch(len(told["names"]), len(failures), **told["seconds"])
                work.check()
            work.put(writer, builder.finish())


def decode_slot(row: Row, plan: Plan, recipe: Recipe) -> Row:
    """A batch of the plan to pixels, and what else is known of it."""
    items = list(plan.items(row["start"], row["stop"]))
    pixels = _black(len(items), recipe)
    decoded = decode_items(items, pixels, recipe)
    told = {
        "names": [item.name for item in items],
        "captions": decoded.captions,
        "failures": pack_failures(decoded.failures),
        "seconds": {"read": decoded.read_seconds, "decode": decoded.decode_seconds},
    }
    return {"pixels": b"" if pixels is None else pixels.tobytes(), "told": json.dumps(told)}


class SlotEncoder:
    """An actor that encodes the rows of `decode_slot`."""

    def __init__(self, arguments: dict[str, Any], modalities: tuple[Modality, ...]) -> None:
        self._model = load(**arguments)
        self._modalities = modalities

    def facts(self) -> ModelFacts:
        return facts_of(self._model)

    def __call__(self, row: Row) -> Row:
        told = json.loads(row["told"])
        pixels = _pixels([row["pixels"]], self._model.config.vision.image_size)
        began = time.perf_counter()
        encoded = encode_batch(
            self._model,
            pixels,
            told["captions"],
            unpack_failures(told["failures"]),
            self._modalities,
        )
        told["seconds"]["encode"] = time.perf_counter() - began
        told["failures"] = pack_failures(encoded.failures)
        rows = {str(kind): values.tobytes() for kind, values in encoded.rows.items()}
        return {"told": json.dumps(told), **rows}


def decode_table(table: Any, image: str, caption: str | None, recipe: Recipe) -> Any:
    """A pyarrow table with the columns pixels, error_code and error, and its captions as `_caption`."""
    import pyarrow as pa

    values = table.column(image).to_pylist()
    texts = [None] * len(values) if caption is None else table.column(caption).to_pylist()
    items: list[Item] = [
        item_of(str(place), *pair) for place, pair in enumerate(zip(values, texts, strict=True))
    ]
    pixels = _black(len(items), recipe)
    decoded = decode_items(items, pixels, recipe)
    if any(isinstance(value, bytes | dict) for value in values):
        table = table.drop_columns([image])
    held = [b"" if pixels is None else pixels[place].tobytes() for place in range(len(items))]
    table = table.append_column("pixels", pa.array(held, pa.binary()))
    table = table.append_column("_caption", pa.array(decoded.captions, pa.string()))
    return _with_errors(table, decoded.failures)


class TableEncoder(SlotEncoder):
    """An actor that encodes the tables of `decode_table`."""

    def __call__(self, table: Any) -> Any:
        import pyarrow as pa

        pixels = _pixels(table.column("pixels").to_pylist(), self._model.config.vision.image_size)
        codes, messages = table.column("error_code").to_pylist(), table.column("error").to_pylist()
        failures = {
            place: InputError(message, code=code)
            for place, (code, message) in enumerate(zip(codes, messages, strict=True))
            if code is not None
        }
        captions = table.column("_caption").to_pylist()
        encoded = encode_batch(self._model, pixels, captions, failures, self._modalities)
        table = table.drop_columns(["pixels", "_caption", "error_code", "error"])
        null = pa.array([place in encoded.failures for place in range(len(captions))])
        for kind, rows in encoded.rows.items():
            flat = pa.array(rows.astype(np.float16).reshape(-1))
            lists = pa.FixedSizeListArray.from_arrays(flat, rows.shape[1], mask=null)
            table = table.append_column(_COLUMNS[kind], lists)
        return _with_errors(table, encoded.failures)


def _facts(arguments: dict[str, Any], modalities: Sequence[Modality], actors: Actors) -> ModelFacts:
    """What an encoder of this cluster makes of the arguments: "auto" may mean something else here."""
    import ray

    encoder = ray.remote(num_cpus=actors.num_cpus, num_gpus=actors.num_gpus)(SlotEncoder)
    actor = encoder.remote(arguments, tuple(modalities))
    facts: ModelFacts = ray.get(actor.facts.remote())
    ray.kill(actor)
    return facts


def _black(count: int, recipe: Recipe) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
    if "images" not in recipe.modalities:
        return None
    return np.zeros((count, 3, recipe.size, recipe.size), np.uint8)


def _pixels(held: Sequence[bytes], side: int) -> torch.Tensor | None:
    """(b, 3, R, R), or None where nothing was decoded."""
    data = bytearray(b"".join(held))
    if not data:
        return None
    return torch.frombuffer(data, dtype=torch.uint8).reshape(-1, 3, side, side)


def _with_errors(table: Any, failures: Mapping[int, InputError]) -> Any:
    import pyarrow as pa

    found = [failures.get(place) for place in range(len(table))]
    codes = [error and error.code for error in found]
    table = table.append_column("error_code", pa.array(codes, pa.string()))
    messages = [error and error.message for error in found]
    return table.append_column("error", pa.array(messages, pa.string()))
