"""clipfast classify: images against labels, without training."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from clipfast.cli.model_options import add_model_options, load_model, positive
from clipfast.cli.outcome import Exit
from clipfast.cli.output import print_json, print_table
from clipfast.errors import ConfigurationError

DEFAULT_TEMPLATE = "a photo of a {}."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--labels", help='separated by commas: "dog,cat"')
    parser.add_argument("--labels-file", type=Path, metavar="FILE", help="one label a line")
    parser.add_argument(
        "--template",
        action="append",
        metavar="T",
        help=f'prompt with {{}} for the label, repeatable (default "{DEFAULT_TEMPLATE}")',
    )
    parser.add_argument(
        "--top", type=positive, default=5, metavar="K", help="labels shown (default 5)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    add_model_options(parser)


def run(options: argparse.Namespace) -> int:
    """Print each image's best labels. ITEM_ERRORS when some image could not be read."""
    labels = _labels(options)
    templates = options.template or [DEFAULT_TEMPLATE]
    model = load_model(options)
    classifier = model.zero_shot_classifier(labels, templates=templates)
    probabilities = classifier.classify(options.images, errors="null")
    failures = {error.index: error for error in model.last_errors}
    results = []
    for index, (image, row) in enumerate(zip(options.images, probabilities, strict=True)):
        result: dict[str, Any] = {"image": image}
        if index in failures:
            result["error"] = {"code": failures[index].code, "message": failures[index].message}
        else:
            values, order = row.topk(min(options.top, len(labels)))
            result["labels"] = [
                {"label": labels[i], "probability": round(p, 6)}
                for p, i in zip(values.tolist(), order.tolist(), strict=True)
            ]
        results.append(result)
    _report(results, as_json=options.json)
    return Exit.ITEM_ERRORS if failures else Exit.OK


def _labels(options: argparse.Namespace) -> list[str]:
    """The labels of both options, without blanks and repetitions."""
    lines = (
        options.labels_file.read_text(encoding="utf-8").splitlines() if options.labels_file else []
    )
    labels = [label.strip() for label in [*(options.labels or "").split(","), *lines]]
    labels = list(dict.fromkeys(label for label in labels if label))
    if not labels:
        raise ConfigurationError('got no labels; pass --labels "dog,cat" or --labels-file FILE')
    return labels


def _report(results: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(results)
        return
    rows = [
        (result["image"], label["label"], f"{100 * label['probability']:.1f}%")
        for result in results
        for label in result.get("labels", ())
    ]
    print_table(("image", "label", "probability"), rows)
    for result in results:
        if "error" in result:
            error = result["error"]
            print(f"{result['image']}: {error['code']}: {error['message']}", file=sys.stderr)
