"""Images in the rows of parquet files: a column of encoded bytes, of {bytes, path} structs, or of paths."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipfast.bulk.item import Item
from clipfast.errors import ConfigurationError, InputError

_IMAGES = ("image", "bytes", "image_bytes", "jpg", "jpeg", "png", "webp", "image_path", "path")
_CAPTIONS = ("caption", "text", "txt")
_ROWS_AT_ONCE = 64


class Rows:
    """The rows of some parquet files, one file after another; each is streamed, never held whole."""

    def __init__(
        self, paths: list[str], image_column: str | None, caption_column: str | None
    ) -> None:
        self._files: list[tuple[str, int, str, str | None]] = []
        identity: list[Any] = []
        for path in paths:
            file = _open(path)
            names = file.schema_arrow.names
            image = _column(path, "image", image_column, _IMAGES, names)
            caption = _column(path, "caption", caption_column, _CAPTIONS, names)
            if image is None:
                raise ConfigurationError(
                    f"{path} has the columns {', '.join(names)}; expected one of {', '.join(_IMAGES)}, or a name with "
                    "--image-column"
                )
            _check_type(path, image, file.schema_arrow.field(image).type)
            self._files.append((path, file.metadata.num_rows, image, caption))
            identity.append(
                [path, Path(path).stat().st_size, file.metadata.num_rows, image, caption]
            )
        self.count = sum(rows for _, rows, _, _ in self._files)
        self.digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    def items(self, start: int, stop: int) -> Iterator[Item]:
        first = 0
        for path, rows, image, caption in self._files:
            low, high = max(start - first, 0), min(stop - first, rows)
            if low < high:
                yield from _rows(path, image, caption, low, high)
            first += rows


def _open(path: str) -> Any:
    from pyarrow import ArrowInvalid, parquet

    try:
        return parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except ArrowInvalid as error:
        raise ConfigurationError(f"{path} is no parquet file: {error}") from None


def _column(
    path: str, what: str, asked: str | None, usual: tuple[str, ...], names: list[str]
) -> str | None:
    if asked is None:
        return next((name for name in usual if name in names), None)
    if asked not in names:
        raise ConfigurationError(
            f"{path} has no {what} column {asked!r}; it has {', '.join(names)}"
        )
    return asked


def _check_type(path: str, column: str, kind: Any) -> None:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    fields = [kind.field(at).name for at in range(kind.num_fields)] if types.is_struct(kind) else []
    accepted = (types.is_binary, types.is_large_binary, types.is_string, types.is_large_string)
    if not any(check(kind) for check in accepted) and "bytes" not in fields:
        raise ConfigurationError(
            f"{path}: column {column!r} is {kind}; expected binary, a struct with bytes, or a string with the path"
        )


def _rows(path: str, image: str, caption: str | None, low: int, high: int) -> Iterator[Item]:
    """The rows [low, high) of one file, a row group after another."""
    file = _open(path)
    first = 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        start, stop = max(low, first), min(high, first + count)
        if start < stop:
            yield from _readable_rows(
                path, file, group, [image, caption], first, range(start, stop)
            )
        first += count


def _readable_rows(
    path: str, file: Any, group: int, columns: list[str | None], first: int, wanted: range
) -> Iterator[Item]:
    """Rows of one group, which begins at row `first`; where it is damaged, each of them is an item that fails."""
    from pyarrow import ArrowException

    given = wanted.start
    try:
        for item in _group_rows(path, file, group, columns, first, wanted):
            yield item
            given += 1
    except (ArrowException, OSError) as error:
        damage = InputError(f"{path} cannot be read: {error}", code="unreadable_file")
        yield from (Item(f"{path}#{row}", damage) for row in range(given, wanted.stop))


def _group_rows(
    path: str, file: Any, group: int, columns: list[str | None], first: int, wanted: range
) -> Iterator[Item]:
    image, caption = columns
    names = [name for name in columns if name is not None]
    for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=names):
        if first >= wanted.stop:
            return
        skip = max(wanted.start - first, 0)
        kept = batch.slice(skip, max(min(wanted.stop - first, len(batch)) - skip, 0))
        captions = [None] * len(kept) if caption is None else kept.column(caption).to_pylist()
        for row, (value, text) in enumerate(
            zip(kept.column(image).to_pylist(), captions, strict=True), first + skip
        ):
            yield item_of(f"{path}#{row}", value, text)
        first += len(batch)


def item_of(name: str, value: Any, caption: Any) -> Item:
    """What a row's image (bytes, {bytes, path}, a path or None) and caption mean."""
    if isinstance(value, dict):
        name = value.get("path") or name
        value = value["bytes"] if value["bytes"] is not None else value.get("path")
    text: str | InputError = InputError("the row has no caption", code="invalid_text")
    if isinstance(caption, str):
        text = caption
    if isinstance(value, str):
        return Item(value, value, text)
    if value is None:
        return Item(name, InputError("the row's image is null", code="unreadable_file"), text)
    return Item(name, value, text)
