"""The two logs of a run. A resumed run rewinds them to its checkpoint.

metrics.jsonl   one JSON object for each time that metrics are written
samples.md      what the policy answers to the same prompts at several points of training
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from textrl_agents.runs.atomic import write_atomically
from textrl_env.foreign_text import visible
from textrl_env.text.prompt_rows import prompt_text
from textrl_env.trajectory import Trajectory

STEP = "time/total_timesteps"
TITLE = "# Samples\n\nResponses to the same {prompts} at several points of training; KL in nats per response.\n"
_SECTION = re.compile(r"^## After ([\d,]+) tokens$", re.MULTILINE)


class MetricsFile:
    """Appends metrics to a file of JSON lines."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """Write one line. Values that are not numbers or text are left out; NaN, which JSON lacks, is null."""
        line: dict[str, Any] = {STEP: step}
        for key, value in sorted(values.items()):
            value = value.item() if getattr(value, "shape", None) == () else value
            if isinstance(value, (int, float, str)):
                line[key] = None if isinstance(value, float) and not math.isfinite(value) else value
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """Return all lines, oldest first. A broken one, as a killed process leaves it, is skipped."""
        lines = []
        data = self.path.read_bytes() if self.path.is_file() else b""
        for text in data.decode(errors="replace").split("\n"):
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(line, dict) and isinstance(line.get(STEP), int):
                lines.append(line)
        return lines

    def rewind(self, step: int) -> None:
        """Drop lines of later steps: a resumed run writes them again."""
        kept = [line for line in self.read() if line[STEP] <= step]
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in kept))


class SampleFile:
    """Appends sections to a Markdown file, one for each point of training."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def add(self, tokens: int, episodes: Sequence[Trajectory], *, prompts: str, note: str = "") -> None:
        """Append a table of `episodes`, sampled after `tokens` tokens of training.

        prompts: the kind that they answer, such as "validation prompts"; the same every time. note: a line above them.
        """
        has_gold = any(episode.gold_score is not None for episode in episodes)
        columns = ["prompt", "response", "score", *(["gold"] if has_gold else []), "KL", "end"]
        above = [f"\n## After {tokens:,} tokens\n", *([f"{note}\n"] if note else [])]
        lines = [*above, markdown_row(columns), markdown_row(["---"] * len(columns))]
        for episode in episodes:
            gold = [_number(episode.gold_score)] if has_gold else []
            texts = [markdown_cell(prompt_text(episode.prompt)), markdown_cell(episode.response)]
            lines.append(
                markdown_row([*texts, _number(episode.score), *gold, _number(episode.kl_sum), episode.finish_reason])
            )
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


def markdown_row(cells: Sequence[str]) -> str:
    """One row of a table, of cells that are Markdown."""
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None) -> str:
    # Rounding first keeps -0.00 away.
    return "" if value is None else f"{round(value, 2) + 0.0:.2f}"


def markdown_cell(text: str) -> str:
    """Escape what a model wrote: no markup or escape sequence in it has an effect, and none breaks the table."""
    escaped = html.escape(visible(text.replace("\r\n", "\n")), quote=False).replace("\\", "\\\\")
    for mark in "|`*_[]":
        escaped = escaped.replace(mark, "\\" + mark)
    return escaped.replace("\n", "<br>")
