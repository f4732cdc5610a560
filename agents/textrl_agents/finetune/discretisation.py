"""From an observation of the fine-tuning environment to a row of a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textrl_env.errors import ConfigError
from textrl_env.finetune import FineTuneEnv

State = tuple[int, ...]
_LOG10_2 = math.log10(2)


@dataclass(frozen=True)
class Discretisation:
    """What a table tells apart.

    - the segment: `budget_used` times the number of segments;
    - each dial, such as the learning rate, by its power of two over the start's, rounded;
    - the optimizer in use, and the batch size by its power of two;
    - the change of the validation loss over the last segment, relative to the loss, cut at `loss_changes`: (0.0,)
      tells only whether the loss rose. () leaves it out.

    With five segments and five multipliers there are 45 pairs of segment and rate, which is all that a table sees of
    3,905 nodes. What it cannot see of the past is noise to it.
    """

    loss_changes: Sequence[float] = (0.0,)

    def of(self, env: FineTuneEnv) -> Discretiser:
        """Return the function for an environment."""
        return Discretiser(self, env)


class Discretiser:
    """Turns observations of one environment into states."""

    def __init__(self, what: Discretisation, env: FineTuneEnv):
        if any(not math.isfinite(edge) for edge in what.loss_changes):
            raise ConfigError(f"loss_changes must be finite numbers, got {tuple(what.loss_changes)!r}")
        self._edges = np.sort(np.asarray(what.loss_changes, dtype=np.float64))
        self._env = env
        self._start = {f"log10_{name}": math.log10(value) for name, value in env.run.settings.dials.items()}
        self._optimizers = [name for name in env.columns.names if name.startswith("optimizer_")]

    def __call__(self, observation: Any) -> State:
        seen = self._env.columns.read(observation)
        dials = [round((seen[name] - start) / _LOG10_2) for name, start in self._start.items()]
        optimizer = max(range(len(self._optimizers)), key=lambda place: seen[self._optimizers[place]], default=0)
        before = seen["validation_loss"] - seen["validation_loss_change"]
        change = seen["validation_loss_change"] / max(before, 1e-9)
        segment = round(seen["budget_used"] * self._env.segments)
        trend = int(np.searchsorted(self._edges, change, side="left")) if len(self._edges) and segment else 0
        return (segment, *dials, optimizer, round(seen["log2_batch"]), trend)
