"""Write a report's files: `report.md`, the figures beside it, and `report.html`, which needs no other file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from textrl_agents.reports.blocks import PictureBlock, Section
from textrl_agents.reports.rendering import FIGURES, html, markdown
from textrl_env.errors import TextRLError

HTML, MARKDOWN = "report.html", "report.md"


def write_report_files(folder: Path, title: str, sections: Sequence[Section]) -> tuple[Path, Path]:
    """Write report.md and report.html; return both paths.

    Each file that is there already is replaced as a whole, or left as it is; other files are not touched.
    Raises TextRLError where a file cannot be written.
    """
    for section in sections:
        for block in section.blocks:
            if isinstance(block, PictureBlock):
                _write(folder / FIGURES / block.name, block.png)
    _write(folder / MARKDOWN, markdown(title, sections).encode("utf-8", "backslashreplace"))
    _write(folder / HTML, html(title, sections).encode("utf-8", "backslashreplace"))
    return folder / MARKDOWN, folder / HTML


def _write(path: Path, content: bytes) -> None:
    """Replace `path` as a whole, so that a reader never sees a part of it."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(content)
        os.replace(fresh, path)
    except OSError as error:
        raise TextRLError(f"{path} cannot be written: {error}. What was there before is unchanged.") from error
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
