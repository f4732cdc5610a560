"""What a report is made of, and how it writes numbers. What models and users wrote stays plain text in it."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from textrl_agents.reports.statistics import IntervalEstimate
from textrl_env.foreign_text import visible

DPI = 160  # of the pictures
NO_VALUE = "-"
AGARWAL, BEIRAMI = "https://arxiv.org/abs/2108.13264", "https://arxiv.org/abs/2401.01879"
_SOURCE = re.compile(f"({re.escape(AGARWAL)}|{re.escape(BEIRAMI)})")  # the only links of a report


@dataclass(frozen=True)
class TextBlock:
    """Paragraphs, or the items of a list. Text in backticks is code."""

    lines: Sequence[str]
    bullets: bool = False
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class TableBlock:
    """Cells of text. numbers: whether all columns but the first hold numbers. sortable: in the page, by a heading."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    numbers: bool = True
    sortable: bool = False
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class PictureBlock:
    """A PNG. name: of its file beside report.md."""

    name: str
    png: bytes = field(repr=False)
    alt: str
    caption: str
    kind: ClassVar[str] = "picture"

    @property
    def width(self) -> int:
        """In CSS pixels, of which 96 are an inch. A PNG's own width is in its bytes 16 to 19."""
        return int.from_bytes(self.png[16:20], "big") * 96 // DPI

    @property
    def uri(self) -> str:
        """The picture itself as a `data:` address."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class SampleBlock:
    """A prompt, and (algorithm, its scores, its response) for each algorithm."""

    prompt: str
    answers: Sequence[tuple[str, str, str]]
    kind: ClassVar[str] = "sample"


Block = TextBlock | TableBlock | PictureBlock | SampleBlock


@dataclass(frozen=True)
class Section:
    """A heading and the blocks below it."""

    title: str
    blocks: Sequence[Block]


def prose(text: str) -> list[tuple[str, str]]:
    """Split a text that the report itself wrote into pieces: ("code" | "link" | "text", piece)."""
    pieces = []
    for number, part in enumerate(visible(text).split("`")):
        if number % 2:
            pieces.append(("code", part))
        else:
            pieces += [
                ("link" if _SOURCE.fullmatch(piece) else "text", piece) for piece in _SOURCE.split(part) if piece
            ]
    return pieces


def number_text(value: float, digits: int) -> str:
    """Write a number as `1,234.50`, for two digits after the point."""
    return f"{round(value, digits) + 0.0:,.{digits}f}"  # rounding first keeps -0.00 away


def mean_text(estimate: IntervalEstimate | None, digits: int) -> str:
    """Write `0.98 ± 0.02`, mean and half of the interval's width; the mean alone where there were too few seeds."""
    if estimate is None:
        return NO_VALUE
    mean = number_text(estimate.value, digits)
    if estimate.interval is None:
        return mean
    return f"{mean} ± {number_text((estimate.interval[1] - estimate.interval[0]) / 2, digits)}"


def range_text(estimate: IntervalEstimate, digits: int) -> str:
    """Write `0.98 [0.96, 0.99]`; the value alone where there were too few seeds."""
    value = number_text(estimate.value, digits)
    if estimate.interval is None:
        return value
    return f"{value} [{', '.join(number_text(bound, digits) for bound in estimate.interval)}]"


def counted(count: int, noun: str) -> str:
    """Write `1 seed`, `2 seeds`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
