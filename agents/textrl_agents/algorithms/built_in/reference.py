"""The model as it is: what every other algorithm is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from textrl_agents.algorithms.algorithm import Algorithm
from textrl_agents.algorithms.cell import Cell, Record, Trained, as_settings


@dataclass(frozen=True)
class ReferenceSettings:
    """There are none."""


def train(cell: Cell, record: Record) -> Trained:
    """Nothing is trained and nothing generated."""
    from textrl_agents.algorithms.cell_setup import initial_policy, training_env

    as_settings(cell.algorithm, cell.settings, ReferenceSettings)
    return Trained(initial_policy(training_env(cell, rows=1)), tokens=0)


ALGORITHM = Algorithm("reference", train, "the model as it is: the zero point", arguments=ReferenceSettings)
