"""`metrics.jsonl`: one JSON object for each time that metrics are written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textrl_agents.runs.atomic import write_atomically

STEP = "time/total_timesteps"


class MetricsFile:
    """Appends, and can be rewound to a checkpoint."""

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
        """All lines, oldest first. One that is no such line, as a killed process leaves it, is skipped."""
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
