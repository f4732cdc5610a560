"""What a row of `textrl bench speed` is made of: a measurement, its sizes, its target, and two sides timed in turn."""

from __future__ import annotations

import operator
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from textrl_agents.speed.workload import Workload

# Does the work once and says how much it was: tokens, as a rule.
Work = Callable[[], int]

_SIDES: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le}


class Target(NamedTuple):
    """What a value must reach, such as `>= 1.0`."""

    side: str
    limit: float

    def met_by(self, value: float) -> bool:
        """Whether `value` is on the right side; NaN never is."""
        return _SIDES[self.side](value, self.limit)

    def __str__(self) -> str:
        return f"{self.side} {self.limit:g}"


class Bench(NamedTuple):
    """What every measurement is given.

    workload: loads the models when it is first called. repeats: rounds of a comparison.
    """

    device: torch.device
    workload: Callable[[], Workload]
    repeats: int


class Measured(NamedTuple):
    """What one measurement found."""

    value: float
    detail: str
    within: bool = True  # whether a second condition holds, which the detail tells


@dataclass(frozen=True)
class Measurement:
    """A row: how it is measured, and what it must reach.

    measure: takes the bench and sizes by name. The defaults of its arguments are the full sizes.
    target: None for a figure of this machine, of which nothing is asked.
    quick: the sizes of `--quick` that differ. quick_target: its target; None for the same.
    """

    measure: Callable[..., Measured]
    target: Target | None
    unit: str = "x"
    quick: Mapping[str, Any] = field(default_factory=dict)
    quick_target: Target | None = None


def measurement(
    target: Target | None,
    *,
    unit: str = "x",
    quick: Mapping[str, Any] | None = None,
    quick_target: Target | None = None,
) -> Callable[[Callable[..., Measured]], Measurement]:
    """Make a function a row's `Measurement`, as a decorator."""
    return lambda measure: Measurement(measure, target, unit, quick or {}, quick_target)


class Comparison(NamedTuple):
    """What `compare` measured."""

    ratio: float  # speed of ours / speed of theirs, the median over the rounds
    ours: float  # units of work a second, median
    theirs: float


def compare(ours: Work, theirs: Work, *, repeats: int, device: torch.device) -> Comparison:
    """Time `ours` and `theirs` in `repeats` rounds, after one round that is not counted.

    Each round runs both, and the ratio is taken within it: a slow moment of a shared machine then hits both alike.
    """
    rounds = [(speed(ours, device), speed(theirs, device)) for _ in range(repeats + 1)][1:]
    return Comparison(
        statistics.median(mine / other for mine, other in rounds),
        statistics.median(mine for mine, _ in rounds),
        statistics.median(other for _, other in rounds),
    )


def speed(work: Work, device: torch.device) -> float:
    """Do the work once; return its units a second."""
    amount, seconds = timed(work, device)
    return amount / seconds


def timed(work: Work, device: torch.device) -> tuple[int, float]:
    """Do the work once; return how much it was and the seconds that it took, the device's included."""
    _wait(device)
    start = time.perf_counter()
    amount = work()
    _wait(device)
    return amount, time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compared(result: Comparison, ours: str, theirs: str) -> Measured:
    """Return the ratio of two speeds, with both speeds as its detail."""
    detail = f"{ours} {result.ours:,.0f} tokens/s, {theirs} {result.theirs:,.0f} tokens/s"
    return Measured(result.ratio, detail)
