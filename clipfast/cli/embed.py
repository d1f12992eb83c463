"""clipfast embed: image embeddings as one shard of clip-retrieval's layout, which autofaiss reads.

OUT/img_emb/img_emb_00000.npy          (N, E) float16, unit rows, C order
OUT/metadata/metadata_00000.parquet    column image_path; row k belongs to row k of the embeddings
OUT/errors/errors_00000.parquet        columns image_path, code, message: what could not be encoded, when any was

A failed image is in the errors only, so that no index ever holds a row that means nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipfast.cli.model_options import add_model_options, load_model, positive
from clipfast.cli.outcome import Exit, require
from clipfast.cli.output import print_json
from clipfast.errors import ClipfastError, InputError

if TYPE_CHECKING:
    from clipfast.ops import Tensor

_TYPES = "avif bmp gif jpeg jpg pbm pgm png pnm ppm tif tiff webp"
SUFFIXES = frozenset(f".{name}" for name in _TYPES.split())
SHARD = "00000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs", nargs="+", type=Path, metavar="INPUT", help="image files, and folders to search"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder")
    parser.add_argument("--batch-size", type=positive, metavar="B")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    add_model_options(parser)


def run(options: argparse.Namespace) -> int:
    """Encode, write, print a summary. ITEM_ERRORS when some image could not be encoded."""
    require("pyarrow", extra="bulk", purpose="embed's metadata")
    images = list(find_images(options.inputs))
    if not images:
        wanted = ", ".join(sorted(SUFFIXES))
        raise ClipfastError(
            f"no image was found; expected files, or folders holding any of {wanted}"
        )
    model = load_model(options)
    embeddings = model.encode_images(
        [str(image) for image in images],
        batch_size=options.batch_size,
        errors="null",
        progress=sys.stderr.isatty(),
    )
    failures = list(model.last_errors)
    write_shard(options.output, images, embeddings, failures)
    for failure in failures:
        image = images[failure.index or 0]
        print(f"{image}: {failure.code}: {failure.message}", file=sys.stderr)
    summary = {
        "output": str(options.output),
        "model": model.config.name,
        "precision": model.precision,
        "images": len(images) - len(failures),
        "errors": len(failures),
        "width": embeddings.shape[1],
    }
    if options.json:
        print_json(summary)
    else:
        print("{images} embeddings of width {width} in {output}, {errors} errors".format(**summary))
    return Exit.ITEM_ERRORS if failures else Exit.OK


def find_images(inputs: Sequence[Path]) -> Iterator[Path]:
    """Files as they are, and the image files of each folder, in name order; links to folders are not followed.

    Raises:
        FileNotFoundError: an input does not exist.
    """
    for path in inputs:
        if not path.is_dir():
            path.stat()
            yield path
            continue
        for folder, folders, names in os.walk(path):
            folders.sort()
            yield from (
                Path(folder, name)
                for name in sorted(names)
                if os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122  (a Path a file costs more)
            )


def write_shard(
    output: Path, images: Sequence[Path], embeddings: Tensor, failures: Sequence[InputError]
) -> None:
    """The three files; each appears under its name only when it is complete.

    Args:
        embeddings: (N, E), a row per image, NaN where it failed.
        failures: with the index of their image.
    """
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    failed = {failure.index for failure in failures}
    kept = [index for index in range(len(images)) if index not in failed]
    rows = embeddings[kept].cpu().numpy().astype(np.float16)
    paths = pa.table({"image_path": [str(images[index]) for index in kept]})
    errors = pa.table(
        {
            "image_path": [str(images[failure.index or 0]) for failure in failures],
            "code": [failure.code for failure in failures],
            "message": [failure.message for failure in failures],
        }
    )
    _write(output / f"img_emb/img_emb_{SHARD}.npy", lambda path: _save_rows(path, rows))
    _write(
        output / f"metadata/metadata_{SHARD}.parquet",
        lambda path: parquet.write_table(paths, path),
    )
    errors_file = output / f"errors/errors_{SHARD}.parquet"
    if failures:
        _write(errors_file, lambda path: parquet.write_table(errors, path))
    else:
        errors_file.unlink(missing_ok=True)


def _save_rows(path: Path, rows: object) -> None:
    import numpy as np

    with path.open("wb") as file:
        np.save(file, rows)  # type: ignore[arg-type]


def _write(path: Path, write: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
