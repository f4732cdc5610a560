"""The model as it is: what every other entry is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from textrl_agents.algorithms.cell import Cell, Record, Trained
from textrl_agents.algorithms.setup import initial_policy, settings_of, training_env


@dataclass(frozen=True)
class Settings:
    """There are none."""


def train(cell: Cell, record: Record) -> Trained:
    """Nothing is trained and nothing generated."""
    settings_of(cell, Settings)
    return Trained(initial_policy(training_env(cell, rows=1)), tokens=0)
