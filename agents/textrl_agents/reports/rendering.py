"""`report.md` and `report.html` from the same sections. What models and users wrote has no effect in either.

In Markdown it is fenced or escaped; in the page Jinja2 escapes it. The page needs no other file: it loads nothing from
outside, and no script runs in it but its own, which sorts tables and which the page's policy knows by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import jinja2

from textrl_agents.reports.blocks import Block, PictureBlock, Section, TableBlock, TextBlock, prose
from textrl_env.foreign_text import visible

TEMPLATE = "report.html.j2"
FIGURES = "figures"  # the folder of the pictures, beside report.md


def markdown(title: str, found: Sequence[Section]) -> str:
    """Render the whole of report.md."""
    lines = [f"# {_inert(title)}", ""]
    for section in found:
        lines += [f"## {_inert(section.title)}", ""]
        for block in section.blocks:
            lines += [*_block(block), ""]
    return "\n".join(lines)


def html(title: str, found: Sequence[Section]) -> str:
    """Render the whole of report.html."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"visible": visible, "prose": prose, "csp_hash": _csp_hash}
    sortable = any(isinstance(block, TableBlock) and block.sortable for section in found for block in section.blocks)
    return environment.get_template(TEMPLATE).render(title=title, sections=found, sortable=sortable)


def _block(block: Block) -> list[str]:
    if isinstance(block, TextBlock):
        written = {"code": "`{}`".format, "link": "<{}>".format, "text": _inert}
        lines = ["".join(written[kind](piece) for kind, piece in prose(line)) for line in block.lines]
        return [f"- {line}" for line in lines] if block.bullets else ["\n\n".join(lines)]
    if isinstance(block, TableBlock):
        aligned = ["---", *["---:" if block.numbers else "---"] * (len(block.header) - 1)]
        rows = [[_inert(cell).replace("\n", "<br>") for cell in row] for row in (block.header, *block.rows)]
        rows.insert(1, aligned)
        table = ["| " + " | ".join(row) + " |" for row in rows]
        return [_inert(block.caption), "", *table] if block.caption else table
    if isinstance(block, PictureBlock):
        return [f"![{_inert(block.alt)}]({FIGURES}/{block.name})", "", _inert(block.caption)]
    lines = ["Prompt:", "", *_fenced(block.prompt)]
    for label, scores, response in block.answers:
        answer = _fenced(response) if response.strip() else ["(nothing)"]
        lines += ["", f"{_inert(label)} ({_inert(scores)}):", "", *answer]
    return lines


def _fenced(text: str) -> list[str]:
    """Return a code block, in which no markup counts. Its fence is longer than any in the text."""
    text = visible(text)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return [f"{fence}text", text, fence]


def _inert(text: str) -> str:
    """Escape text so that Markdown renders no markup, HTML, address or mention."""
    text = re.sub(r"([\\`*_\[\]<>|~$@#&])", r"\\\1", visible(text)).replace("://", ":\\//")
    return re.sub(r"\b(www)\.", r"\1\\.", text, flags=re.IGNORECASE)


def _csp_hash(text: str) -> str:
    """Return the source expression that allows this inline text and no other (https://www.w3.org/TR/CSP3/#grammardef-hash-source)."""
    return f"sha256-{base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode()}"
