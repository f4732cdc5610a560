"""Two ways of doing the same work, timed side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

# Does the work once and says how much it was: tokens, as a rule.
Work = Callable[[], int]


class Comparison(NamedTuple):
    """What `compare` measured."""

    ratio: float  # speed of ours / speed of theirs, the median over the rounds
    ours: float  # units of work a second, median
    theirs: float


def compare(ours: Work, theirs: Work, *, repeats: int, device: torch.device) -> Comparison:
    """Time `ours` and `theirs` in `repeats` rounds of both, after one round that is not counted.

    Both are run in each round, and the ratio is taken within the round: on a machine that others use too, a slow
    moment then hits both sides alike.
    """
    rounds = [(speed(ours, device), speed(theirs, device)) for _ in range(repeats + 1)][1:]
    return Comparison(
        statistics.median(mine / other for mine, other in rounds),
        statistics.median(mine for mine, _ in rounds),
        statistics.median(other for _, other in rounds),
    )


def speed(work: Work, device: torch.device) -> float:
    """Do the work once; return its units a second."""
    _wait(device)
    start = time.perf_counter()
    amount = work()
    _wait(device)
    return amount / (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
