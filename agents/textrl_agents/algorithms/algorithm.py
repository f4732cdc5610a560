"""What an algorithm says of itself: how it is trained, with which settings, on what, and what it needs.

Names and descriptions are read before torch is imported. So a library's class or function is named by a text
"module:name", and imported when it is first used.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from textrl_agents.algorithms.cell import AnswerFunction, Cell, Record, Trained, TrainFunction, as_settings
from textrl_env.errors import ConfigError, MissingExtra

# Runs whatever can be called with a cell, without checkpoints.
CELL_TRAINER = "textrl_agents.runs.cell_run:CellRun"


@dataclass(frozen=True)
class Algorithm:
    """An algorithm, by name.

    train: see TrainFunction; a text is imported when it is first called.
    settings: its tuned arguments. task_settings: those that differ on a task.
    tasks: the only ones it can be run on; empty for any.
    requires: module that it imports -> the extra of this package that brings it.
    arguments: a dataclass of its settings, where it has one; other settings are then refused before a run begins.
    answers: how its policy answers prompts, where that is not by sampling token by token; see AnswerFunction.
    trainer: the `textrl_agents.runs.trainer.Trainer` of its runs. A run has checkpoints where it names one.

    A library's algorithms are of a subclass, which says how the library builds them.
    """

    library: ClassVar[str | None] = None  # as `textrl train --lib` calls it

    name: str
    train: TrainFunction | str
    description: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    task_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    requires: Mapping[str, str] = field(default_factory=dict)
    arguments: type[Any] | None = None
    answers: AnswerFunction | None = None
    trainer: str = CELL_TRAINER

    @property
    def has_checkpoints(self) -> bool:
        """Whether a run that was stopped can go on."""
        return self.trainer != CELL_TRAINER

    @property
    def name_in_library(self) -> str:
        """What its library calls it: "dpo" for "trl_dpo"."""
        return self.name.removeprefix(f"{self.library}_")

    def fits(self, task: str) -> bool:
        """Whether it can be run on `task`."""
        return not self.tasks or task in self.tasks

    def require_fit(self, task: str) -> None:
        """Raise ConfigError for a task that it cannot be run on."""
        if not self.fits(task):
            raise ConfigError(f"{self.name} runs on {', '.join(self.tasks)} alone, not on {task!r}")

    def missing(self) -> MissingExtra | None:
        """The error that names the first package it needs and that is not installed; None where all are."""
        for module, extra in self.requires.items():
            if importlib.util.find_spec(module) is None:
                return MissingExtra(extra, module)
        return None

    def settings_for(self, task: str) -> dict[str, Any]:
        """Its tuned settings on `task`."""
        return {**self.settings, **self.task_settings.get(task, {})}

    def check_turns(self, task: str) -> None:
        """Raise ConfigError where it cannot train the episodes of this task, which have several turns."""

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Raise UnknownName for a setting that it does not have, and ConfigError for a value that it refuses."""
        if self.arguments is not None:
            as_settings(self.name, settings, self.arguments)

    def run(self, cell: Cell, record: Record) -> Trained:
        """Train. Raises MissingExtra where its library is not installed, ConfigError on a task it does not fit."""
        self.require_fit(cell.task)
        if (missing := self.missing()) is not None:
            raise missing
        train: TrainFunction = load_object(self.train) if isinstance(self.train, str) else self.train
        return train(cell, record)


def load_object(place: str) -> Any:
    """Import what a text "module:name" names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
