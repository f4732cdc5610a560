"""`samples.md`: what the policy answers to the same prompts at several points of training."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path

from textrl_agents.evaluation.fresh_samples import SampleRecord
from textrl_agents.runs.atomic import write_atomically
from textrl_env.foreign_text import visible
from textrl_env.text.prompt_rows import prompt_text

TITLE = "# Samples\n\nResponses to the same {prompts} at several points of training; KL in nats per response.\n"
_SECTION = re.compile(r"^## After ([\d,]+) tokens$", re.MULTILINE)


class SampleFile:
    """A Markdown file with one section for each point of training."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def add(self, tokens: int, records: Sequence[SampleRecord], *, prompts: str, note: str = "") -> None:
        """Append a table of `records`, sampled after `tokens` tokens of training.

        prompts: which they answer, in words, as in "validation prompts"; the same every time. note: a line above them.
        """
        has_gold = any(record.gold_score is not None for record in records)
        columns = ["prompt", "response", "score", *(["gold"] if has_gold else []), "KL", "end"]
        above = [f"\n## After {tokens:,} tokens\n", *([f"{note}\n"] if note else [])]
        lines = [*above, _row(columns), _row(["---"] * len(columns))]
        for record in records:
            gold = [_number(record.gold_score)] if has_gold else []
            texts = [_cell(prompt_text(record.prompt)), _cell(record.response)]
            lines.append(_row([*texts, _number(record.score), *gold, _number(record.kl), record.finish_reason]))
        before = self.path.read_text(encoding="utf-8") if self.path.is_file() else TITLE.format(prompts=prompts)
        write_atomically(self.path, before + "\n".join(lines) + "\n")

    def rewind(self, tokens: int) -> None:
        """Drop what was sampled after more than `tokens` tokens: a resumed run samples it again."""
        if not self.path.is_file():
            return
        text = self.path.read_text(encoding="utf-8")
        for section in _SECTION.finditer(text):
            if int(section[1].replace(",", "")) > tokens:
                write_atomically(self.path, text[: section.start()].rstrip("\n") + "\n")
                return


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None) -> str:
    # Rounding first keeps -0.00 away.
    return "" if value is None else f"{round(value, 2) + 0.0:.2f}"


def _cell(text: str) -> str:
    """What a model writes stays text: no markup or escape sequence of it has an effect, and none breaks the table."""
    escaped = html.escape(visible(text.replace("\r\n", "\n")), quote=False).replace("\\", "\\\\")
    for mark in "|`*_[]":
        escaped = escaped.replace(mark, "\\" + mark)
    return escaped.replace("\n", "<br>")
