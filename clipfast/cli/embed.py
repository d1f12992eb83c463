"""clipfast embed: millions of images to embeddings on disk, resumable at any moment.

    clipfast embed photos/ "shards/{00000..00099}.tar" -o embeddings --model ViT-B/32

Running the same command again makes only what is missing. See `clipfast.bulk` for the files it writes.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from clipfast import environment
from clipfast.cli.model_options import add_model_options, load_arguments, load_model, positive
from clipfast.cli.outcome import Exit, require
from clipfast.cli.output import print_json

if TYPE_CHECKING:
    from clipfast.bulk import Progress, Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="folders, image files, lists of paths (.txt, .jsonl, - for stdin), webdataset tars, parquet files; "
        "brace patterns like {00..99} too",
    )
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder")
    parser.add_argument(
        "--embed", default="images", choices=("images", "texts", "both"), help="texts: the captions"
    )
    parser.add_argument("--batch-size", type=positive, metavar="B")
    parser.add_argument("--shard-size", type=positive, metavar="N", help="items a file (50000)")
    parser.add_argument(
        "--format", default="clip-retrieval", choices=("clip-retrieval", "npy", "parquet")
    )
    parser.add_argument("--image-column", metavar="C", help="of parquet files: bytes or paths")
    parser.add_argument("--caption-column", metavar="C", help="of parquet files")
    parser.add_argument("--overwrite", action="store_true", help="replace what OUT holds")
    parser.add_argument(
        "--retry-failed", action="store_true", help="try the items in errors/ again"
    )
    parser.add_argument("--num-workers", type=positive, metavar="N", help="decoding threads")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.add_argument("--log-json", action="store_true", help="progress as JSON lines on stderr")
    many = parser.add_argument_group(
        "several processes",
        "default: what SLURM_PROCID and SLURM_NTASKS, or RANK and WORLD_SIZE, say",
    )
    many.add_argument("--num-shards", type=positive, metavar="N", help="processes of the job")
    many.add_argument("--shard-index", type=int, metavar="I", help="which one this is, from 0")
    many.add_argument("--ray", action="store_true", help="run on a Ray cluster")
    many.add_argument("--ray-actors", type=positive, default=1, metavar="N", help="encoders (1)")
    many.add_argument("--ray-cpus", type=float, default=1, metavar="C", help="of each encoder (1)")
    many.add_argument("--ray-gpus", type=float, default=0, metavar="G", help="of each encoder (0)")
    add_model_options(parser)


def run(options: argparse.Namespace) -> int:
    """Embed what is missing; the summary is printed also when a signal ends it.

    Returns: ITEM_ERRORS when some items could not be embedded, now or in an earlier run.
    """
    if options.format != "npy" or any(path.endswith(".parquet") for path in options.inputs):
        require("pyarrow", extra="bulk", purpose="embed's metadata")
    if options.ray:
        require("ray", extra="ray", purpose="embed --ray")
    from clipfast.bulk import Progress

    settings = _settings(options)
    progress = Progress(sys.stderr, log_json=options.log_json)
    try:
        code = _embed(options, settings, progress)
    except (KeyboardInterrupt, SystemExit):
        summary = progress.as_dict()
        left = summary["planned_items"] - summary["skipped_items"] - summary["rows"]
        progress.say(
            "interrupted", f"interrupted with about {left:,} items to do; run it again to go on"
        )
        _print_summary(summary, options.json)
        raise
    _print_summary(progress.as_dict(), options.json)
    return code


def _embed(options: argparse.Namespace, settings: Settings, progress: Progress) -> int:
    if options.ray:
        from clipfast.ray import Actors, embed_inputs

        summary = embed_inputs(
            load_arguments(options),
            options.inputs,
            options.output,
            settings,
            progress,
            Actors(options.ray_actors, options.ray_cpus, options.ray_gpus),
        )
    else:
        from clipfast.bulk import embed

        summary = embed(
            lambda: load_model(options), options.inputs, options.output, settings, progress
        )
    return Exit.ITEM_ERRORS if summary.failed else Exit.OK


def _settings(options: argparse.Namespace) -> Settings:
    from clipfast.bulk import Settings

    index, number = environment.process_of_job() or (0, 1)
    if options.num_shards is not None:
        index, number = options.shard_index or 0, options.num_shards
    elif options.shard_index is not None:
        index = options.shard_index
    return Settings(
        modalities=("images", "texts") if options.embed == "both" else (options.embed,),
        batch_size=options.batch_size,
        shard_size=options.shard_size,
        format=options.format,
        overwrite=options.overwrite,
        retry_failed=options.retry_failed,
        num_shards=number,
        shard_index=index,
        image_column=options.image_column,
        caption_column=options.caption_column,
        num_workers=options.num_workers,
    )


def _print_summary(summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(summary)
        return
    errors = ", ".join(f"{count} {code}" for code, count in summary["errors"].items())
    counted = f"{sum(summary['errors'].values())} errors" + (f": {errors}" if errors else "")
    print(
        "{rows} embeddings in {output} ({skipped_items} items were done before), "
        "{items_per_second:.1f} items/s, {bottleneck}-bound; ".format(**summary)
        + counted
        if summary["items"]
        else "nothing was left to do in {output}: {skipped_items} items, {skipped_errors} errors".format(
            **summary
        )
    )
