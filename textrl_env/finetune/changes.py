"""The actions of the fine-tuning environment: what changes before the next segment."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from textrl_env.errors import ConfigError, UnknownName
from textrl_env.finetune.training_run import LEARNING_RATE, Settings
from textrl_env.foreign_text import shown
from textrl_env.user_values import check_names, check_number

MULTIPLIERS = (0.25, 0.5, 1.0, 2.0, 4.0)
LEAST_DIAL, MOST_DIAL = 1e-12, 1e6  # a dial that is multiplied for ever stays a number that can be multiplied


@dataclass(frozen=True)
class Change:
    """One action.

    factors: dial -> what it is multiplied by. optimizer: the next one; None keeps it.
    batch_factor: times the batch size of the start. stop: end the episode without another segment.
    """

    factors: Mapping[str, float] = field(default_factory=dict)
    optimizer: str | None = None
    batch_factor: float = 1.0
    stop: bool = False

    def applied(self, settings: Settings, start: Settings) -> Settings:
        """Return the settings after the change. start: those of the run's start."""
        dials = {
            name: min(max(value * self.factors.get(name, 1.0), LEAST_DIAL), MOST_DIAL)
            for name, value in settings.dials.items()
        }
        batch_size = max(1, round(start.batch_size * self.batch_factor)) if start.batch_size else 0
        return Settings(dials, self.optimizer or settings.optimizer, batch_size)

    def __str__(self) -> str:
        if self.stop:
            return "stop"
        parts = [f"{name} x {factor:g}" for name, factor in self.factors.items()]
        parts += [self.optimizer] if self.optimizer else []
        parts += [f"batch x {self.batch_factor:g}"] if self.batch_factor != 1 else []
        return ", ".join(parts)


def all_changes(
    start: Settings,
    multipliers: Sequence[float] | Mapping[str, Sequence[float]] = MULTIPLIERS,
    optimizers: Sequence[str] = (),
    batch_factors: Sequence[float] = (1.0,),
    *,
    stop: bool = False,
) -> tuple[Change, ...]:
    """Return every combination, the last option changing fastest; `stop` comes last.

    multipliers: of the learning rate, or dial -> its multipliers. Raises ConfigError where nothing could be chosen, or
    the run has no such option.
    """
    by_dial = multipliers if isinstance(multipliers, Mapping) else {LEARNING_RATE: multipliers}
    check_names("dial", by_dial, start.dials)
    for name, factors in by_dial.items():
        _check_factors(f"multipliers of {name}", factors)
    _check_factors("batch_factors", batch_factors)
    if tuple(batch_factors) != (1.0,) and not start.batch_size:
        raise ConfigError("this run has no batch size to change: leave batch_factors out")
    if not start.optimizer and optimizers:
        raise ConfigError("this run has one optimizer of its own: leave optimizers out")
    chosen: list[Any] = [*optimizers] if len(optimizers) > 1 else [None]
    changes = [
        Change(dict(zip(by_dial, factors, strict=True)), optimizer, float(batch))
        for *factors, optimizer, batch in itertools.product(*by_dial.values(), chosen, batch_factors)
    ]
    return tuple([*changes, Change(stop=True)] if stop else changes)


def check_optimizers(optimizers: Any, start: Settings, known: Sequence[str]) -> tuple[str, ...]:
    """Return the optimizers that an agent chooses from, the start's at least. Raises ConfigError and UnknownName."""
    if isinstance(optimizers, str) or not isinstance(optimizers, Sequence):
        raise ConfigError(f"optimizers must be a list of names, such as ['adamw', 'sgd'], got {shown(optimizers)}")
    for name in optimizers:
        if name not in known:
            raise UnknownName("optimizer", name, known)
    if len(set(optimizers)) < len(optimizers) or (optimizers and start.optimizer not in optimizers):
        raise ConfigError(
            f"optimizers must name each once, and the one that is used at the start, {start.optimizer!r}; got "
            f"{shown(list(optimizers))}"
        )
    return tuple(optimizers) or ((start.optimizer,) if start.optimizer else ())


def _check_factors(name: str, factors: Any) -> None:
    if isinstance(factors, str) or not isinstance(factors, Sequence) or not factors:
        raise ConfigError(f"{name} must be a list of numbers > 0, such as [0.5, 1, 2]; got {shown(factors)}")
    for factor in factors:
        check_number(name, factor, 0, above=True)
