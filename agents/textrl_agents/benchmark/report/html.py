"""`report.html`: one page that needs no other file.

Jinja2 escapes what models and users wrote. No script runs in the page, and it loads nothing from outside.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

import jinja2

from textrl_agents.benchmark.report.blocks import Section, prose
from textrl_env.foreign_text import visible

TEMPLATE = "report.html.j2"


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
    return environment.get_template(TEMPLATE).render(title=title, sections=found)


def _csp_hash(text: str) -> str:
    """Return the source expression that allows this inline text and no other (https://www.w3.org/TR/CSP3/#grammardef-hash-source)."""
    return f"sha256-{base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode()}"
