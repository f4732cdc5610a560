"""What a report is made of, and how it is written in Markdown: there, what others wrote is fenced or escaped."""

from __future__ import annotations

import base64
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from textrl_agents.benchmark.figures import DPI

FIGURES = "figures"  # the folder of the pictures, beside report.md
AGARWAL, BEIRAMI = "https://arxiv.org/abs/2108.13264", "https://arxiv.org/abs/2401.01879"
_SOURCE = re.compile(f"({re.escape(AGARWAL)}|{re.escape(BEIRAMI)})")  # the only links of a report
_BIDI = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True)
class Text:
    """Paragraphs, or the items of a list. What stands in backticks is code."""

    lines: Sequence[str]
    bullets: bool = False
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Table:
    """Cells of text. numbers: whether all columns but the first hold numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    numbers: bool = True
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Picture:
    """A PNG. name: of its file beside report.md."""

    name: str
    png: bytes = field(repr=False)
    alt: str
    caption: str
    kind: ClassVar[str] = "picture"

    @property
    def width(self) -> int:
        """CSS pixels, of which 96 are an inch; a PNG's own width stands in bytes 16 to 19."""
        return int.from_bytes(self.png[16:20], "big") * 96 // DPI

    @property
    def uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class Sample:
    """A prompt, and (algorithm, its scores, its response) for each algorithm."""

    prompt: str
    answers: Sequence[tuple[str, str, str]]
    kind: ClassVar[str] = "sample"


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Text | Table | Picture | Sample]


def markdown(title: str, found: Sequence[Section]) -> str:
    """The whole of report.md."""
    lines = [f"# {_inert(title)}", ""]
    for section in found:
        lines += [f"## {_inert(section.title)}", ""]
        for block in section.blocks:
            lines += [*_block(block), ""]
    return "\n".join(lines)


def _block(block: Text | Table | Picture | Sample) -> list[str]:
    if isinstance(block, Text):
        written = {"code": "`{}`".format, "link": "<{}>".format, "text": _inert}
        lines = ["".join(written[kind](piece) for kind, piece in prose(line)) for line in block.lines]
        return [f"- {line}" for line in lines] if block.bullets else ["\n\n".join(lines)]
    if isinstance(block, Table):
        aligned = ["---", *["---:" if block.numbers else "---"] * (len(block.header) - 1)]
        rows = [[_inert(cell).replace("\n", "<br>") for cell in row] for row in (block.header, *block.rows)]
        rows.insert(1, aligned)
        table = ["| " + " | ".join(row) + " |" for row in rows]
        return [_inert(block.caption), "", *table] if block.caption else table
    if isinstance(block, Picture):
        return [f"![{_inert(block.alt)}]({FIGURES}/{block.name})", "", _inert(block.caption)]
    lines = ["Prompt:", "", *_fenced(block.prompt)]
    for label, scores, response in block.answers:
        answer = _fenced(response) if response.strip() else ["(nothing)"]
        lines += ["", f"{_inert(label)} ({_inert(scores)}):", "", *answer]
    return lines


def _fenced(text: str) -> list[str]:
    """A code block, in which nothing means anything; its fence is longer than any in the text."""
    text = visible(text)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return [f"{fence}text", text, fence]


def _inert(text: str) -> str:
    """Text of which Markdown renders no markup, HTML, address or mention."""
    text = re.sub(r"([\\`*_\[\]<>|~$@#&])", r"\\\1", visible(text)).replace("://", ":\\//")
    return re.sub(r"\b(www)\.", r"\1\\.", text, flags=re.IGNORECASE)


def visible(text: str) -> str:
    """Control characters, lone surrogates and marks that turn the reading direction around, as their escapes."""
    return "".join(
        char.encode("unicode_escape").decode("ascii")
        if char in _BIDI or (unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") and char not in "\n\t")
        else char
        for char in text
    )


def prose(text: str) -> list[tuple[str, str]]:
    """The pieces of a text of the report's own: ("code" | "link" | "text", piece)."""
    pieces = []
    for number, part in enumerate(visible(text).split("`")):
        if number % 2:
            pieces.append(("code", part))
        else:
            pieces += [
                ("link" if _SOURCE.fullmatch(piece) else "text", piece) for piece in _SOURCE.split(part) if piece
            ]
    return pieces
