"""The contact sheet: each sample with its label and a bar for its probability, then what each search found."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

from clipfast.demo.report import Guess, Report, Search
from clipfast.demo.samples import Sample

RGB = tuple[int, int, int]

_PAPER, _CARD, _INK, _FAINT = (244, 243, 239), (255, 255, 255), (34, 36, 41), (126, 128, 134)
_TRACK, _RIGHT, _WRONG = (228, 228, 224), (37, 128, 92), (196, 66, 52)
_MARGIN, _GAP, _PAD = 48, 20, 12
_COLUMNS, _TILE, _CAPTION = 6, 196, 62
_THUMB, _QUERY_WIDTH = 148, 380
_BAR = 10
_CARD_WIDTH = _TILE + 2 * _PAD
_CARD_HEIGHT = _TILE + _CAPTION + 2 * _PAD
_WIDTH = 2 * _MARGIN + _COLUMNS * _CARD_WIDTH + (_COLUMNS - 1) * _GAP
_HEADER, _SECTION, _FOOTER = 108, 64, 56


def draw_contact_sheet(report: Report, samples: list[Sample], gallery: list[Sample]) -> Image.Image:
    """The report as one RGB image: samples with their guesses, then the hits of every search."""
    rows = -(-len(samples) // _COLUMNS)
    guesses_height = rows * _CARD_HEIGHT + (rows - 1) * _GAP
    searches_height = len(report.searches) * (_THUMB + _GAP)
    height = _HEADER + guesses_height + _SECTION + searches_height + _FOOTER
    sheet = Image.new("RGB", (_WIDTH, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _text(draw, (_MARGIN, 30), "clipfast demo", 34, _INK)
    right = sum(guess.right for guess in report.guesses)
    _text(
        draw,
        (_MARGIN, 74),
        f"zero-shot: the best of {report.labels} labels for each image, {right} of {len(samples)} right",
        17,
        _FAINT,
    )
    for i, (sample, guess) in enumerate(zip(samples, report.guesses, strict=True)):
        row, column = divmod(i, _COLUMNS)
        left = _MARGIN + column * (_CARD_WIDTH + _GAP)
        _draw_guess(sheet, (left, _HEADER + row * (_CARD_HEIGHT + _GAP)), sample, guess)
    top = _HEADER + guesses_height + _SECTION
    caption = f"text search: the nearest of {report.gallery} images, best first, with their cosines"
    _text(draw, (_MARGIN, top - 38), caption, 17, _FAINT)
    for search in report.searches:
        _draw_search(sheet, top, search, gallery)
        top += _THUMB + _GAP
    speed = f"{report.images_per_second:,.0f} images/s   {report.texts_per_second:,.0f} texts/s"
    _text(draw, (_MARGIN, top + 4), f"{speed}   ({report.model})", 15, _FAINT)
    return sheet


def _draw_guess(sheet: Image.Image, corner: tuple[int, int], sample: Sample, guess: Guess) -> None:
    left, top = corner
    draw = ImageDraw.Draw(sheet)
    sheet.paste(_CARD, (left, top), _rounded((_CARD_WIDTH, _CARD_HEIGHT), 12))
    _paste(sheet, sample, (left + _PAD, top + _PAD), _TILE)
    text_top = top + _PAD + _TILE + 10
    _text(draw, (left + _PAD, text_top), guess.label, 16, _INK, max_width=_TILE)
    colour = _RIGHT if guess.right else _WRONG
    percent = f"{guess.probability:.0%}"
    bar_left, bar_right = left + _PAD, left + _PAD + _TILE - 52
    bar_top = text_top + 32
    full = bar_right - bar_left
    sheet.paste(_TRACK, (bar_left, bar_top), _rounded((full, _BAR), _BAR // 2))
    filled = max(_BAR, round(full * guess.probability))
    sheet.paste(colour, (bar_left, bar_top), _rounded((filled, _BAR), _BAR // 2))
    end = left + _PAD + _TILE - draw.textlength(percent, font=_font(16))
    _text(draw, (round(end), bar_top - 5), percent, 16, colour)


def _draw_search(sheet: Image.Image, top: int, search: Search, gallery: list[Sample]) -> None:
    draw = ImageDraw.Draw(sheet)
    _text(draw, (_MARGIN, top + 42), f"“{search.query}”", 20, _INK, max_width=_QUERY_WIDTH - 24)
    step = _THUMB + 66
    for place, (index, cosine) in enumerate(zip(search.indices, search.cosines, strict=True)):
        left = _MARGIN + _QUERY_WIDTH + place * step
        _paste(sheet, gallery[index], (left, top), _THUMB)
        _text(draw, (left + _THUMB + 8, top + _THUMB - 22), f"{cosine:.2f}", 16, _FAINT)


def _paste(sheet: Image.Image, sample: Sample, corner: tuple[int, int], side: int) -> None:
    picture = sample.image.resize((side, side), Image.Resampling.LANCZOS)
    sheet.paste(picture, corner, _rounded((side, side), 8))


def _rounded(size: tuple[int, int], radius: int) -> Image.Image:
    """A mask of a rectangle with round corners, smooth-edged: drawn four times as large, then reduced."""
    large = (4 * size[0], 4 * size[1])
    mask = Image.new("L", large, 0)
    box = (0, 0, large[0] - 1, large[1] - 1)
    ImageDraw.Draw(mask).rounded_rectangle(box, 4 * radius, fill=255)
    return mask.resize(size, Image.Resampling.BOX)


def _text(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    text: str,
    size: int,
    fill: RGB,
    *,
    max_width: int | None = None,
) -> None:
    """One line, or as many as `max_width` makes of it (a smaller font when one line nearly fits)."""
    font = _font(size)
    if max_width is not None:
        while size > 11 and draw.textlength(text, font=font) > max_width:
            size -= 1
            font = _font(size)
    draw.text(corner, text, font=font, fill=fill)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
