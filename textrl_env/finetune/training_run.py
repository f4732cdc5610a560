"""What the environment steers: a training run that goes on by segments, with settings that may change between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

LEARNING_RATE = "learning_rate"


@dataclass(frozen=True)
class Settings:
    """What a segment is trained with.

    dials: positive numbers by name, such as `{"learning_rate": 1e-4}`.
    optimizer: its name; "" where the run has no choice. batch_size: rows of a step; 0 where the run has no choice.
    """

    dials: Mapping[str, float] = field(default_factory=dict)
    optimizer: str = ""
    batch_size: int = 0


class Measurement(NamedTuple):
    """What is known of the run after a segment, or at its start.

    score: what the reward is the rise of; finite, also where the run has diverged.
    train_loss: mean over the segment's steps. gradient_norm: the same, before clipping. At the start: of the first
        batch, before any step.
    diverged: whether a loss or a gradient was not finite, or the loss is beyond all measure. The run cannot go on.
    """

    score: float
    train_loss: float
    validation_loss: float
    gradient_norm: float
    diverged: bool = False


@runtime_checkable
class TrainingRun(Protocol):
    """A training run as the environment needs it.

    settings: those of the start. What `begin` and `train` do follows from `order_seed` and the settings alone, and they
    leave the process's random generators as they were: an agent that learns in the same process draws from them.
    """

    @property
    def settings(self) -> Settings: ...

    def begin(self, order_seed: int) -> Measurement:
        """Go back to the start. order_seed: of what is random in the run, such as the order of its data."""

    def train(self, settings: Settings) -> Measurement:
        """Train one segment."""


@runtime_checkable
class SnapshotRun(Protocol):
    """A run that can also be put back to any segment's end, bit for bit."""

    def snapshot(self) -> Any:
        """Return a copy of all that the next segments depend on; training on does not change it."""

    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot. Raises ModelError, and changes nothing, where it is of another run."""
