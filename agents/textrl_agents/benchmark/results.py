"""`results.jsonl`: one JSON object for each cell that was run. A killed process costs one line at most.

{"algorithm", "task", "seed", "budget", "key", "status": "done" or "failed", "error", "tokens", "metrics", "curve", ...}
A cell that failed and was tried again has several lines; the last one counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from textrl_agents.algorithms.cell import Cell
from textrl_agents.algorithms.registry import get_algorithm
from textrl_agents.training import provenance
from textrl_env.errors import TextRLError, UnknownName
from textrl_env.tasks import get_task
from textrl_env.tasks.splits import own_task

REQUIRED = {"algorithm": str, "task": str, "seed": int, "key": str, "status": str}
_OPTIONAL = {
    "budget": int,
    "eval_episodes": int,
    "metrics": dict,
    "settings": dict,
    "env": dict,
    "versions": dict,
    "machine": dict,
    "curve": list,
    "samples": list,
}

_JSON_NAMES = {str: "text", int: "a whole number", dict: "an object", list: "a list"}


class Contents(NamedTuple):
    """What a results file holds."""

    lines: list[dict[str, Any]]  # oldest first
    torn: str  # a last line that was cut off and is lost; "" where there is none

    @property
    def latest(self) -> dict[str, dict[str, Any]]:
        """The last line of each cell, by the cell's key."""
        return {line["key"]: line for line in self.lines}


class ResultsFile:
    """Appends whole lines, and reads what is there."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def append(self, *lines: Mapping[str, Any]) -> None:
        """Add lines, and return when they are on the disk. Where they cannot be written the file stays as it was."""
        data = "".join(json.dumps(line, allow_nan=False, default=str) + "\n" for line in lines).encode()
        with self.path.open("ab", buffering=0) as file:
            before = file.tell()
            try:
                # One write: a process that is killed leaves the line whole, or cut off at the file's end.
                if (written := file.write(data)) != len(data):
                    raise OSError(f"{self.path}: {written} of {len(data)} bytes could be written; is the disk full?")
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise

    def read(self) -> Contents:
        """Return all lines. Raises TextRLError, which names the line, where one before the last is broken."""
        data = self.path.read_bytes() if self.path.is_file() else b""
        *whole, last = data.split(b"\n")
        lines = [self._parse(text, number) for number, text in enumerate(whole, start=1) if text.strip()]
        if not last:
            return Contents(lines, "")
        try:
            return Contents([*lines, self._parse(last, len(whole) + 1)], "")
        except TextRLError:
            return Contents(lines, last.decode(errors="replace"))

    def repair(self) -> str:
        """Cut a torn last line off, so that the next one starts on a line of its own; return what was lost."""
        data = self.path.read_bytes() if self.path.is_file() else b""
        end = data.rfind(b"\n") + 1
        if end == len(data):
            return ""
        torn = self.read().torn
        if torn:
            os.truncate(self.path, end)
        else:  # the line is whole and lacks only its newline
            with self.path.open("ab") as file:
                file.write(b"\n")
        return torn

    def _parse(self, text: bytes, number: int) -> dict[str, Any]:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._broken(number, str(error)) from None
        if not isinstance(line, dict):
            raise self._broken(number, f"a JSON object was expected, got {type(line).__name__}")
        if missing := [name for name in REQUIRED if name not in line]:
            raise self._broken(number, f"it has no {', '.join(missing)}")
        for name, kind in {**REQUIRED, **_OPTIONAL}.items():
            value = line.get(name)
            if not isinstance(value, kind) and not (value is None and name in _OPTIONAL):
                raise self._broken(number, f"its {name} must be {_JSON_NAMES[kind]}, got {value!r:.60}")
        for name, keys in (("curve", ()), ("samples", ("prompt", "response"))):
            for entry in line.get(name) or []:
                if not isinstance(entry, dict) or any(key not in entry for key in keys):
                    expected = f"objects with {' and '.join(keys)}" if keys else "objects"
                    raise self._broken(number, f"its {name} must hold {expected}, got {entry!r:.60}")
        return line

    def _broken(self, number: int, why: str) -> TextRLError:
        return TextRLError(f"{self.path}, line {number} is no result: {why}. Remove that line; its cell is run again")


def new_line(cell: Cell, *, started: datetime) -> dict[str, Any]:
    """Start a cell's line: what the cell is, and where and when it ran. started: with a time zone."""
    return {
        "algorithm": cell.algorithm,
        "library": library_of(cell.algorithm),
        "task": cell.task,
        "title": _title(cell),
        "seed": cell.seed,
        "budget": cell.budget,
        "key": cell.key,
        "status": "done",
        "error": None,
        "tokens": 0,
        "metrics": {},
        "train_seconds": 0.0,
        "tokens_per_second": 0.0,
        "peak_memory_mib": None,
        "curve": [],
        "samples": [],
        "settings": dict(cell.settings),
        "env": dict(cell.env),
        "kl_coef": _kl_coef(cell),
        "eval_episodes": cell.eval_episodes,
        "device": cell.device,
        "versions": provenance.versions(),
        "machine": provenance.machine(),
        "started": started.astimezone(UTC).isoformat(timespec="seconds"),
    }


def library_of(algorithm: str) -> str | None:
    """Whose algorithm it is; None where it is this package's own, or not known."""
    try:
        return get_algorithm(algorithm).library
    except UnknownName:  # a cell fails for the same reason, and tells it
        return None


def failed(line: Mapping[str, Any], error: str, traceback: str = "") -> dict[str, Any]:
    """Return `line` as the line of a cell that failed. error: type and message."""
    lost: dict[str, Any] = {"metrics": {}, "curve": [], "samples": []}
    return {**line, **lost, "status": "failed", "error": error, "traceback": traceback}


def _title(cell: Cell) -> str:
    """The task's name; with own prompts or an own reward, what is asked and judged instead."""
    try:
        return own_task(**cell.env_arguments).name
    except Exception:  # the cell fails for the same reason, and tells it
        return cell.task


def _kl_coef(cell: Cell) -> float | None:
    """The KL coefficient that the cell starts with; None where there is no such task."""
    value = cell.env.get("kl_coef")
    if value is None:
        try:
            value = get_task(cell.task).kl_coef
        except Exception:  # the cell fails for the same reason, and tells it
            return None
    if isinstance(value, Mapping):
        value = value.get("value")
    return float(value) if isinstance(value, (int, float)) else None
