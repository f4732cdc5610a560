"""The learning rate over the course of a run, for every library."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from textrl_env.errors import ConfigError
from textrl_env.user_values import check_number

# What several algorithms were tuned to, as `WarmupSchedule.of` takes it. Shares of the default for the model's size:
HALF = {"scale": 0.5}
# for `sentiment`, whose scores differ more than those of the other tasks, which lie between 0 and 1;
FULL = {"scale": 1.0}
# and for `exact`, which has a model of random weights, six tokens and a policy that moves far.
FALLING = {"peak": 3e-3, "final": 0.0}


class WarmupSchedule:
    """A learning rate that rises linearly over the first `warmup` share of training and then falls to `final` of it.

    SB3 calls it with its progress: 1 at the start and 0 at the end. Progress is below 0 where the last rollout goes
    beyond the end; the rate then stays at its last value. `points` is the same for RLlib.
    """

    def __init__(self, peak: float, warmup: float = 0.05, final: float = 0.1):
        if not (0 <= peak < math.inf and 0 <= warmup < 1 and 0 <= final <= 1):
            raise ConfigError(f"need peak >= 0, 0 <= warmup < 1, 0 <= final <= 1; got {peak}, {warmup}, {final}")
        self.peak, self.warmup, self.final = peak, warmup, final

    @classmethod
    def of(cls, arguments: Mapping[str, float] | None, parameters: int) -> WarmupSchedule:
        """Make one from a mapping, as settings in YAML have it; None is {}. Raises ConfigError.

        parameters: how many are trained. Where no `peak` is given it is `scale` (default 1) times
        `default_learning_rate`, which fits models of any size.
        """
        given = dict(arguments or {})
        try:
            if "peak" not in given:
                given["peak"] = given.pop("scale", 1.0) * default_learning_rate(parameters)
            return cls(**given)
        except TypeError:
            raise ConfigError(
                f"a learning rate takes either peak or scale, and warmup and final; got {sorted(arguments or {})}"
            ) from None

    def __call__(self, progress_remaining: float) -> float:
        done = 1.0 - max(progress_remaining, 0.0)
        if done < self.warmup:
            return self.peak * done / self.warmup
        return self.peak * (1.0 - (1.0 - self.final) * (done - self.warmup) / (1.0 - self.warmup))

    def points(self, total_timesteps: int, first: int) -> list[list[float]]:
        """Return corners `[timestep, rate]`; the rate is linear between them.

        first: timesteps before the first update. Without it RLlib would make that update at the rate of timestep 0.
        """
        end = max(2, total_timesteps)
        start = min(first, end - 1)
        bend = min(max(round(self.warmup * end), start), end - 1)
        corners = {0: start, bend: bend, end: end}
        return [[float(at), self(1.0 - progress_at / end)] for at, progress_at in corners.items()]


def default_learning_rate(parameters: int) -> float:
    """Return 1e-3 for a million trained parameters; it falls with the root of their number (1e-5 for ten billion)."""
    rate: float = 1e-3 * (1e6 / max(parameters, 1)) ** 0.5
    return rate


def check_learning_rate(name: str, value: Any) -> None:
    """Raise ConfigError for a number below 0. None, mappings, callables and lists are left to those who take them."""
    if value is not None and not isinstance(value, (Mapping, list, tuple)) and not callable(value):
        check_number(name, value, 0)


def learning_schedule(given: float | Mapping[str, float] | None, weights: Iterable[Any]) -> WarmupSchedule:
    """Return a constant rate for a number, else what `WarmupSchedule.of` makes. Raises ConfigError."""
    if given is None or isinstance(given, Mapping):
        return WarmupSchedule.of(given, sum(weight.numel() for weight in weights))
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise ConfigError(
            f"learning_rate must be a number >= 0 or a mapping with peak or scale, warmup and final, got {given!r}"
        )
    return WarmupSchedule(float(given), warmup=0.0, final=1.0)
