"""Schedules of the learning rate that an agent's are held against: constant, cosine and linear decay."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from textrl_env.finetune.training_run import LEARNING_RATE, TrainingRun

SCHEDULES: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {
        "constant": lambda progress: 1.0,
        "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
        "linear": lambda progress: 1 - progress,
    }
)
"""Name -> share of the peak, where progress goes from 0 to 1 over the episode."""


def scheduled_rates(name: str, peak: float, segments: int) -> list[float]:
    """Return each segment's rate: the schedule in the middle of the segment."""
    return [peak * SCHEDULES[name]((segment + 0.5) / segments) for segment in range(segments)]


def play_rates(run: TrainingRun, rates: list[float], order_seed: int) -> float:
    """Train one segment at each rate; return the rise of the score, which is the sum of an episode's rewards.

    The compute has no price here. A run that diverges ends there, as an episode does.
    """
    start = run.begin(order_seed)
    measured, settings = start, run.settings
    for rate in rates:
        settings = replace(settings, dials={**settings.dials, LEARNING_RATE: rate})
        measured = run.train(settings)
        if measured.diverged:
            break
    return measured.score - start.score
