"""The folder of a loop: where everything lies, and which steps are done.

state.json            the settings, and the steps that are done
feedback.sqlite       all questions and votes
round-1/               questions.jsonl, consensus.jsonl, reward/, run/ and measured.json
report.md, report.png
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from textrl_agents.feedback.loop.settings import LoopSettings
from textrl_agents.runs.atomic import foreign_names, write_atomically
from textrl_agents.runs.run_folder import RunFolder
from textrl_env.errors import ConfigError, TextRLError
from textrl_env.user_values import user_path

STATE = "state.json"


class RoundFolder:
    """What one round makes."""

    def __init__(self, path: Path):
        self.path = path
        self.questions = path / "questions.jsonl"
        self.consensus = path / "consensus.jsonl"
        self.reward = path / "reward"
        self.run = RunFolder(path / "run")
        self.measured = path / "measured.json"


class LoopFolder:
    """Paths of a loop, and its state. `open` reads or begins it.

    A step is done once `state.json` says so. What a step writes is there whole or not at all, and a step that is not
    done is done again: so a loop that was killed at any moment goes on as if nothing had happened.
    """

    def __init__(self, path: Path, settings: LoopSettings, done: list[str]):
        self.path, self.settings, self.done = path, settings, done
        self.store = path / "feedback.sqlite"
        self.report = path / "report.md"
        self.figure = path / "report.png"

    @classmethod
    def open(cls, path: str | Path, settings: LoopSettings | None) -> LoopFolder:
        """Read a loop's folder, or begin one there. settings: None for those that it was begun with.

        Raises ConfigError where the folder holds something else, and where it was begun with other settings.
        """
        path = user_path(path)
        found = _read(path / STATE)
        if found is None:
            if others := foreign_names(path, STATE):
                raise ConfigError(f"{str(path)!r} holds no loop, and is not empty: {others}. Choose another --out")
            folder = cls(path, settings or LoopSettings(), [])
        else:
            before, done = found
            (settings or before).require_same(before)
            folder = cls(path, settings or before, done)
        return folder

    def round(self, number: int) -> RoundFolder:
        """What round `number` makes; they are counted from 1."""
        return RoundFolder(self.path / f"round-{number}")

    def step(self, name: str, work: Callable[[], None]) -> None:
        """Do what is not done yet, and note that it is."""
        if name not in self.done:
            work()
            self.done.append(name)
            self.save()

    def save(self) -> None:
        """Write the state. Raises TextRLError where it cannot be written."""
        state = {"settings": self.settings.to_json(), "done": self.done}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / STATE, json.dumps(state, indent=1) + "\n")
        except OSError as error:
            raise TextRLError(f"{self.path / STATE} cannot be written: {error}") from error


def _read(path: Path) -> tuple[LoopSettings, list[str]] | None:
    if not path.exists():
        return None
    try:
        state: Any = json.loads(path.read_text(encoding="utf-8"))
        settings, done = state["settings"], list(state["done"])
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise ConfigError(f"{path} is no state of a loop: {type(error).__name__}: {error}") from error
    return LoopSettings.of(settings), done
