"""Benchmarks by name: which algorithms and tasks, how many seeds, how many tokens."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from textrl_agents.training.settings_file import read_settings
from textrl_env.errors import UnknownName

PRESETS_FILE = Path(__file__).parent / "presets.yaml"


@dataclass(frozen=True)
class Preset:
    """algos: empty for all that are known. budget: tokens of a cell; budgets: of those of other tasks."""

    description: str
    tasks: list[str]
    seeds: int
    budget: int
    eval_episodes: int
    algos: list[str] = field(default_factory=list)
    budgets: Mapping[str, int] = field(default_factory=dict)

    def budget_for(self, task: str) -> int:
        return self.budgets.get(task, self.budget)


def preset_names() -> list[str]:
    """Names of all presets."""
    return list(_presets())


def get_preset(name: str) -> Preset:
    """The preset of that name. Raises UnknownName with the nearest name."""
    if name not in _presets():
        raise UnknownName("preset", name, preset_names())
    return Preset(**_presets()[name])


@functools.cache
def _presets() -> dict[str, dict[str, Any]]:
    return read_settings(PRESETS_FILE)
