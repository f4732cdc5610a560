"""What an agent sees of a training run: a short vector of finite numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from gymnasium.spaces import Box

from textrl_env.finetune.changes import LEAST_DIAL, MOST_DIAL
from textrl_env.finetune.training_run import Measurement, Settings

MOST_LOSS = 100.0
LEAST_NORM, MOST_NORM = 1e-6, 1e6
MOST_BATCH = 2.0**10  # times the start's


class Column(NamedTuple):
    """One number of the observation."""

    name: str
    low: float
    high: float


class ObservationColumns:
    """The columns of the observation, in their order, and how they are filled.

    | column | what |
    |---|---|
    | `log10_<dial>` | one for each dial, such as `log10_learning_rate` |
    | `optimizer_<name>` | 1 for the one in use, else 0; one for each optimizer that may be chosen |
    | `log2_batch` | batch size over that of the start |
    | `train_loss`, `validation_loss` | nats a token; above 100 they are 100. PPO's train loss may be below 0 |
    | `train_loss_change`, `validation_loss_change` | since the segment before; 0 at the start |
    | `log10_gradient_norm` | before clipping |
    | `budget_used` | share of the segments that are done |
    """

    def __init__(self, dials: Sequence[str], optimizers: Sequence[str]):
        self._optimizers = tuple(optimizers)
        self.columns = (
            *(Column(f"log10_{dial}", math.log10(LEAST_DIAL), math.log10(MOST_DIAL)) for dial in dials),
            *(Column(f"optimizer_{name}", 0, 1) for name in self._optimizers),
            Column("log2_batch", -math.log2(MOST_BATCH), math.log2(MOST_BATCH)),
            Column("train_loss", -MOST_LOSS, MOST_LOSS),
            Column("validation_loss", 0, MOST_LOSS),
            *(Column(f"{kind}_loss_change", -MOST_LOSS, MOST_LOSS) for kind in ("train", "validation")),
            Column("log10_gradient_norm", math.log10(LEAST_NORM), math.log10(MOST_NORM)),
            Column("budget_used", 0, 1),
        )
        self.names = tuple(column.name for column in self.columns)
        self._low, self._high = (
            np.array([getattr(column, side) for column in self.columns], dtype=np.float32) for side in ("low", "high")
        )

    @property
    def space(self) -> Box:
        return Box(self._low, self._high, dtype=np.float32)

    def vector(
        self, settings: Settings, start: Settings, before: Measurement, now: Measurement, used: float
    ) -> np.ndarray:
        """float32 [columns]. before: the measurement a segment ago. used: share of the budget."""
        values = [
            *(math.log10(value) for value in settings.dials.values()),
            *(float(name == settings.optimizer) for name in self._optimizers),
            math.log2(settings.batch_size / start.batch_size) if start.batch_size else 0.0,
            now.train_loss,
            now.validation_loss,
            _difference(now.train_loss, before.train_loss),
            _difference(now.validation_loss, before.validation_loss),
            math.log10(max(_finite(now.gradient_norm, MOST_NORM), LEAST_NORM)),
            used,
        ]
        filled = np.array([_finite(value, MOST_LOSS) for value in values])
        clipped: np.ndarray = np.clip(filled, self._low, self._high).astype(np.float32)
        return clipped

    def read(self, observation: np.ndarray) -> Mapping[str, float]:
        """Column -> its number."""
        return dict(zip(self.names, map(float, observation), strict=True))


def _difference(after: float, before: float) -> float:
    return _finite(after, MOST_LOSS) - _finite(before, MOST_LOSS)


def _finite(value: float, otherwise: float) -> float:
    return value if math.isfinite(value) else otherwise
