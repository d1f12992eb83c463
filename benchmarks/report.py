"""Tables and a chart from the results files; nothing is measured here, and no figure is written by hand.

python -m benchmarks.report                      Markdown tables of every machine
python -m benchmarks.report --chart speed.png    and a chart of images/s at the largest batch
python -m benchmarks.report --write README.md    between the lines <!-- benchmarks --> and <!-- /benchmarks -->
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.chart import Bar, draw_chart, figure
from benchmarks.peers import PEERS

RESULTS = Path(__file__).parent / "results"
START, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
_TEXT_PEERS = (
    "peers: the fastest of OpenVINO, transformers and torch.compile, padded to 77 tokens, or sorted by length and "
    "padded to the longest of a batch"
)
TITLES = {
    "images": "Images/s",
    "texts": "Texts/s",
    "captions": f"Texts/s, 256 captions of 8 to 20 tokens ({_TEXT_PEERS})",
    "prompts": f"Texts/s, the 8,000 prompts of 100 ImageNet classes and 80 templates ({_TEXT_PEERS})",
    "similarity": "Queries/s, probabilities of 1000 classes",
    "top_k": "Queries/s, the 10 nearest of 1,000,000 rows",
    "model_load": "Loads/s",
}
Document = dict[str, Any]
# (model or gallery, precision, batch) -> peer -> what was found
Rows = dict[tuple[str, str, int], dict[str, Document]]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description="Tables and a chart from the results."
    )
    parser.add_argument("--chart", type=Path, metavar="PNG")
    parser.add_argument("--write", type=Path, metavar="FILE")
    parser.add_argument("--results", type=Path, metavar="DIR", default=RESULTS)
    options = parser.parse_args()
    documents = [json.loads(path.read_text()) for path in sorted(options.results.glob("*.json"))]
    if not documents:
        parser.exit(1, f"no results in {options.results}: run make bench\n")
    tables = "\n\n".join(tables_of(document) for document in documents)
    if options.chart:
        title = f"Images/s, {machine_line(documents[0])}"
        draw_chart(title, list(bars_of(documents[0]))).save(options.chart)
    if options.write:
        options.write.write_text(between_markers(options.write.read_text(), tables))
    else:
        print(tables)


def tables_of(document: Document) -> str:
    """Every table of one machine, in Markdown."""
    parts = [f"### {machine_line(document)}", NOTE]
    for task, title in TITLES.items():
        rows = rows_of(document, task)
        if rows:
            parts.append(f"{title}:\n\n{table_of(rows)}")
    refusals = {why for why in document["absent"].values() if why.startswith("clipfast: ")}
    parts += [f"Not measured: {why}" for why in sorted(refusals)]
    return "\n\n".join(parts)


NOTE = (
    "Made by `make bench` (`make bench CELLS='-k ViT-B-32'` for some cells). Medians. A peer's cell: its items/s, "
    "then in brackets how many times faster clipfast was in pairs measured in turn, with the 95% interval of the "
    "median; bold where all of it is above 1. % of peak: the arithmetic of every given token, over what a matrix "
    "product reached in the same run; work that is not done can lift it over 100."
)


def machine_line(document: Document) -> str:
    """ "AMD EPYC (family 25 model 17), 2 cores, torch 2.13.0" """
    machine = document["machine_info"]
    gpu = f", {machine['gpu']['name']}" if machine["gpu"] else ""
    family = f" (family {machine['cpu_family']} model {machine['cpu_model']})"
    cores = f"{machine['affinity']} cores"
    return f"{machine['cpu']}{family}{gpu}, {cores}, torch {machine['versions']['torch']}"


def rows_of(document: Document, task: str) -> Rows:
    """The cells of a task, those that a peer could not serve included."""
    rows: Rows = {}
    for cell in document["benchmarks"]:
        info = cell["extra_info"]
        if info.get("work", {}).get("task") == task:
            work = info["work"]
            key = (work["model"] or str(work["gallery"]), work["precision"], work["batch"])
            rows.setdefault(key, {})[info["peer"]["name"]] = info
    for name, reason in document["absent"].items():
        if f"::test_{task}[" in name and not reason.startswith("clipfast: "):
            *model, precision, batch, peer = name.partition("[")[2].rstrip("]").split("-")
            key = ("-".join(model), precision, int(batch))
            rows.setdefault(key, {})[peer] = {"absent": reason}
    return rows


def table_of(rows: Rows) -> str:
    """A line for each model, precision and batch; a column for clipfast and for each peer that has a cell."""
    peers = [name for name in PEERS if any(name in found for found in rows.values())]
    header = ["model", "precision", "batch", "clipfast", "% of peak", "cosine", *peers]
    lines = [header, ["---"] * len(header)]
    for (model, precision, batch), found in sorted(rows.items()):
        ours = [info["ours"] for info in found.values() if "ours" in info]
        line = [model, precision, str(batch)]
        line += [
            _middle(ours, "items_per_second", figure),
            _middle(ours, "percent_of_peak", "{:.0f}%".format),
            _middle(ours, "cosine", "{:.6f}".format),
        ]
        lines.append(line + [peer_cell(found.get(peer)) for peer in peers])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _middle(ours: list[Document], name: str, form: Callable[[float], str]) -> str:
    values = [our[name] for our in ours if name in our]
    return form(median(values)) if values else ""


def peer_cell(info: Document | None) -> str:
    """ "45.1 (**1.08x**, 1.05 to 1.11)", or why there is nothing to show."""
    if info is None:
        return ""
    if "absent" in info:
        return str(info["absent"]).partition(": ")[2]
    ratio = info["ratio"]
    times = f"{ratio['median']:.2f}x"
    if ratio["low"] > 1:
        times = f"**{times}**"
    if ratio["coverage"] < 0.95:
        interval = f"of {ratio['pairs']} pairs"
    else:
        interval = f"{ratio['low']:.2f} to {ratio['high']:.2f}"
    return f"{figure(info['peer']['items_per_second'])} ({times}, {interval})"


def bars_of(document: Document) -> Iterator[Bar]:
    """Images/s of everyone at the largest batch of each model and precision, a group each."""
    rows = rows_of(document, "images")
    for model, precision, batch in sorted(rows):
        if batch != max(other[2] for other in rows if other[:2] == (model, precision)):
            continue
        found = {
            peer: info for peer, info in rows[model, precision, batch].items() if "peer" in info
        }
        if not found:
            continue
        group = f"{model}, {precision}, batch {batch}"
        ours = median(info["ours"]["items_per_second"] for info in found.values())
        yield Bar(group, "clipfast", ours, ours=True)
        for peer, info in found.items():
            yield Bar(group, peer, info["peer"]["items_per_second"])


def between_markers(text: str, tables: str) -> str:
    """The text with what stands between the marker lines replaced.

    Raises: ValueError when it has no such lines.
    """
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"expected the lines {START} and {END}, found not both")
    return f"{before}{START}\n{tables}\n{END}{after}"


if __name__ == "__main__":
    main()
