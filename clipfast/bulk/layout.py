"""Where the files of a shard lie, and how they are written and read: one class a format.

clip-retrieval   img_emb/img_emb_00000.npy, text_emb/text_emb_00000.npy, metadata/metadata_00000.parquet
npy              the same arrays, metadata/metadata_00000.jsonl; needs no pyarrow
parquet          embeddings/embeddings_00000.parquet: the metadata, and fixed-size lists of float16

What could not be embedded is in errors/errors_00000.parquet (npy: .jsonl): item, image_path, code, message. A shard
without rows has no other files: readers that pair arrays and tables by their place in the folder skip empty arrays.
Strings that are not UTF-8 (file names may be anything) are written with backslash escapes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from clipfast.bulk.durable import Written, write_file
from clipfast.bulk.shard import Failure, Modality, Rows, Shard

Format = Literal["clip-retrieval", "npy", "parquet"]
FORMATS: tuple[str, ...] = get_args(Format)

_ARRAYS: dict[Modality, str] = {"images": "img_emb", "texts": "text_emb"}
_COLUMNS: dict[Modality, str] = {"images": "image_embedding", "texts": "text_embedding"}
Columns = dict[str, list[Any]]


class Layout:
    """The files of one job. digits: of a shard's number in its file names."""

    def __init__(self, folder: Path, form: str, digits: int) -> None:
        self.folder = folder
        self.form = form
        self.digits = digits
        self.table = ".jsonl" if form == "npy" else ".parquet"

    def array(self, kind: Modality, number: int) -> str:
        return self._name(_ARRAYS[kind], number, ".npy")

    def metadata(self, number: int) -> str:
        return self._name(
            "embeddings" if self.form == "parquet" else "metadata", number, self.table
        )

    def errors(self, number: int) -> str:
        return self._name("errors", number, self.table)

    def marker(self, number: int) -> str:
        return self._name("done", number, ".json")

    def _name(self, kind: str, number: int, suffix: str) -> str:
        return f"{kind}/{kind}_{number:0{self.digits}d}{suffix}"

    def names(self, number: int) -> list[str]:
        """Every file that the shard may have."""
        return [self.marker(number), self.errors(number), *self._rows_of(number)]

    def _rows_of(self, number: int) -> list[str]:
        return [self.metadata(number), *(self.array(kind, number) for kind in _ARRAYS)]

    def write(self, shard: Shard) -> dict[str, Written]:
        """Every file of the shard but its marker. Raises: OSError; files that were complete by then stay."""
        written: dict[str, Written] = {}

        def put(name: str, write: Callable[[Any], object]) -> None:
            written[name] = write_file(self.folder / name, write)

        columns = _metadata(shard)
        if not shard.items:
            for name in self._rows_of(shard.number):
                (self.folder / name).unlink(missing_ok=True)
        elif self.form == "parquet":
            put(self.metadata(shard.number), lambda file: _write_embeddings(file, columns, shard))
        else:
            for kind, rows in shard.rows.items():
                put(self.array(kind, shard.number), partial(_write_rows, rows=rows))
            put(self.metadata(shard.number), lambda file: self._write_table(file, columns))
        errors = self.errors(shard.number)
        if shard.failures:
            put(errors, lambda file: self._write_table(file, _failures(shard)))
        else:
            (self.folder / errors).unlink(missing_ok=True)
        return written

    def read(self, number: int, kinds: tuple[Modality, ...]) -> Shard:
        """A shard as it was written; its arrays are memory-mapped where the format allows."""
        if not (self.folder / self.metadata(number)).exists():
            kinds, columns = (), _EMPTY
        else:
            columns = self.read_table(self.metadata(number))
        failed = self.folder / self.errors(number)
        failures = self.read_table(self.errors(number)) if failed.exists() else {"item": []}
        return Shard(
            number,
            {kind: self.read_rows(kind, number) for kind in kinds},
            columns["item"],
            columns["image_path"],
            columns.get("caption"),
            [
                Failure(*values)
                for values in zip(*(failures[name] for name in _FAILURE), strict=True)
            ]
            if failures["item"]
            else [],
        )

    def read_rows(self, kind: Modality, number: int) -> Rows:
        if self.form != "parquet":
            rows: Rows = np.load(self.folder / self.array(kind, number), mmap_mode="r")
            return rows
        from pyarrow import parquet

        name = _COLUMNS[kind]
        table = parquet.read_table(self.folder / self.metadata(number), columns=[name])
        column = table.column(name).combine_chunks()
        return np.asarray(column.values, np.float16).reshape(len(column), column.type.list_size)

    def read_table(self, name: str) -> Columns:
        """Columns of metadata or errors, without embeddings."""
        path = self.folder / name
        if self.table == ".jsonl":
            with path.open() as file:
                rows = [json.loads(line) for line in file]
            return {key: [row[key] for row in rows] for key in rows[0]} if rows else _EMPTY
        from pyarrow import parquet

        names = parquet.read_schema(path).names
        columns = [column for column in names if column not in _COLUMNS.values()]
        table: Columns = parquet.read_table(path, columns=columns).to_pydict()
        return table

    def _write_table(self, file: Any, columns: Columns) -> None:
        if self.table == ".jsonl":
            for row in _by_row(columns):
                file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        else:
            _write_parquet(file, _arrow(columns))


_FAILURE = ("item", "image_path", "code", "message")
_EMPTY: Columns = {"item": [], "image_path": []}


def _metadata(shard: Shard) -> Columns:
    columns: Columns = {"image_path": list(map(_text, shard.names))}
    if shard.captions is not None:
        columns["caption"] = list(map(_text, shard.captions))
    return columns | {"item": shard.items}


def _failures(shard: Shard) -> Columns:
    rows = [asdict(failure) for failure in shard.failures]
    columns = {name: [row[name] for row in rows] for name in ("item", "code")}
    texts = {"image_path": "name", "message": "message"}
    return columns | {to: [_text(row[at]) for row in rows] for to, at in texts.items()}


def _text(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _by_row(columns: Columns) -> Iterator[dict[str, Any]]:
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _write_rows(file: Any, rows: Rows) -> None:
    np.lib.format.write_array(file, np.ascontiguousarray(rows), allow_pickle=False)


def _arrow(columns: Columns) -> Any:
    import pyarrow as pa

    types = {"item": pa.int64()}
    return pa.table(
        {name: pa.array(values, types.get(name, pa.string())) for name, values in columns.items()}
    )


def _write_parquet(file: Any, table: Any) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(table, pa.PythonFile(file, mode="w"))


def _write_embeddings(file: Any, columns: Columns, shard: Shard) -> None:
    import pyarrow as pa

    table = _arrow(columns)
    for kind, rows in shard.rows.items():
        flat = pa.array(np.ascontiguousarray(rows).reshape(-1), pa.float16())
        lists = pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
        table = table.append_column(_COLUMNS[kind], lists)
    _write_parquet(file, table)
