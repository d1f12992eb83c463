"""What the demo found, and its text form: small tables with bars."""

from __future__ import annotations

from dataclasses import dataclass

_BAR_CELLS = 20
_EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True)
class Guess:
    """The best label of a sample, its probability among all labels, and whether it is the sample's own."""

    label: str
    probability: float
    right: bool


@dataclass(frozen=True)
class Search:
    """The best images of the gallery for a query: their indices and cosines, best first."""

    query: str
    indices: list[int]
    cosines: list[float]


@dataclass(frozen=True)
class Report:
    """One run of the demo.

    labels: how many labels each guess chose from. gallery: how many images each search chose from.
    images_per_second: of pixels that need no resizing. texts_per_second: tokenizing included.
    """

    model: str
    labels: int
    gallery: int
    guesses: list[Guess]
    searches: list[Search]
    images_per_second: float
    texts_per_second: float
    contact_sheet: str


def format_report(report: Report) -> str:
    """The report as text for a terminal."""
    right = sum(guess.right for guess in report.guesses)
    lines = [
        f"clipfast demo: {report.model}",
        "",
        f"{len(report.guesses)} images, {report.labels} labels: {right} right",
        *(
            f"  {i:>2}  {guess.label:<28} {bar(guess.probability)} {guess.probability:6.1%}"
            f"{'' if guess.right else '   wrong'}"
            for i, guess in enumerate(report.guesses, start=1)
        ),
        "",
        f"Searching {report.gallery} images by text, best first (cosines)",
        *(
            f"  {search.query:<42} " + "  ".join(f"{cosine:.2f}" for cosine in search.cosines)
            for search in report.searches
        ),
        "",
        f"  {report.images_per_second:8,.0f} images/s",
        f"  {report.texts_per_second:8,.0f} texts/s",
        "",
        f"Contact sheet: {report.contact_sheet}",
    ]
    return "\n".join(lines)


def bar(share: float) -> str:
    """A bar of _BAR_CELLS cells, `share` of it filled, in eighths of a cell."""
    eighths = round(share * _BAR_CELLS * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(_BAR_CELLS)
