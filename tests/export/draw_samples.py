"""Draws the images and prompts that exports are verified with: `python -m tests.export.draw_samples` writes them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from clipfast.demo.samples import SAMPLE_SIZE, Sample, draw_gallery
from clipfast.export.samples import COLUMNS, FOLDER

COUNT = 40


def draw_sheet(gallery: list[Sample]) -> Image.Image:
    rows = -(-len(gallery) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * SAMPLE_SIZE, rows * SAMPLE_SIZE))
    for index, sample in enumerate(gallery):
        row, column = divmod(index, COLUMNS)
        sheet.paste(sample.image, (column * SAMPLE_SIZE, row * SAMPLE_SIZE))
    return sheet


def write_prompts(gallery: list[Sample]) -> str:
    """A line an image: short and long ones in turn, so that texts end at many positions."""
    forms = (
        "a {colour} {subject}",
        "a photo of a {colour} {subject}.",
        "a {size} {colour} {subject} on {background}",
        "a drawing of a {size} {colour} {subject} on a {background} background.",
        "there is a {size} {colour} {subject} at the {row} {column} of the image, on a {background} background.",
    )
    lines = [forms[i % len(forms)].format(**vars(s.scene)) for i, s in enumerate(gallery)]
    return "\n".join(lines) + "\n"


def write(folder: Path) -> None:
    gallery = draw_gallery(COUNT)
    folder.mkdir(parents=True, exist_ok=True)
    draw_sheet(gallery).save(folder / "images.png", optimize=True)
    (folder / "prompts.txt").write_text(write_prompts(gallery))


if __name__ == "__main__":
    write(FOLDER)
