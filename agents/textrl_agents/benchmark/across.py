"""All tasks on one scale: an algorithm's scores over them, their interquartile means and how the algorithms compare."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from textrl_agents.benchmark import statistics
from textrl_agents.benchmark.statistics import MIN_SEEDS, Estimate

if TYPE_CHECKING:
    from textrl_agents.benchmark.aggregate import Row, TaskTable

REFERENCE = "reference"  # the algorithm that gives the zero of a scale
BOOTSTRAP_SEED = 0
PROFILE_POINTS = 301


@dataclass(frozen=True)
class Scale:
    """How a task's results become scores. known: 1 is the task's optimum; else the best mean of this result set."""

    task: str
    known: bool
    zero: float = 0.0
    one: float = 1.0
    best: str = ""

    def scores(self, row: Row) -> dict[int, float]:
        """Seed -> score; of a known optimum's task without the runs whose share of it could not be computed."""
        key = "normalized" if self.known else "objective"
        values = row.by_seed(key)
        if self.known or not values:
            return values
        scores = statistics.normalize(list(values.values()), self.zero, self.one)
        return dict(zip(values, scores.tolist(), strict=True))


@dataclass(frozen=True)
class Across:
    """All tasks that have a scale, and the algorithms that have a result on each of them.

    scores: label -> float64 [runs, tasks], of the seeds that finished on every task. without_scale: task -> why it is
    not among them. left_out: label -> why. improvement: (x, y) -> P(x > y), of each pair in both orders.
    taus: float64 [n]; profiles: label -> float64 [n]; profile_intervals: label -> float64 [2, n].
    """

    scales: tuple[Scale, ...] = ()
    without_scale: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    iqm: Mapping[str, Estimate] = field(default_factory=dict)
    improvement: Mapping[tuple[str, str], Estimate] = field(default_factory=dict)
    taus: np.ndarray = field(default_factory=lambda: np.zeros(0))
    profiles: Mapping[str, np.ndarray] = field(default_factory=dict)
    profile_intervals: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def ranked(self) -> list[str]:
        """Labels, the highest interquartile mean first."""
        return sorted(self.iqm, key=lambda label: -self.iqm[label].value)


def compare(tables: Sequence[TaskTable]) -> Across:
    """The algorithms over all tasks, with intervals from `MIN_SEEDS` seeds on."""
    found = {table.label: _scale(table) for table in tables}
    scales = tuple(scale for scale in found.values() if isinstance(scale, Scale))
    without_scale = {task: reason for task, reason in found.items() if isinstance(reason, str)}
    scaled = [table for table in tables if table.label not in without_scale]
    scores: dict[str, np.ndarray] = {}
    left_out: dict[str, str] = {}
    for label in dict.fromkeys(row.label for table in scaled for row in table.rows):
        rows = {table.label: table.row(label) for table in scaled}
        missing = [task for task, row in rows.items() if row is None]
        if missing:
            left_out[label] = f"no result on {', '.join(missing)}"
            continue
        by_task = [scale.scores(row) for scale in scales if (row := rows[scale.task]) is not None]
        seeds = sorted(set.intersection(*(set(column) for column in by_task)))
        unknown = [scale.task for scale, column in zip(scales, by_task, strict=True) if not column]
        if unknown:
            left_out[label] = f"its share of the optimum is not known on {', '.join(unknown)}"
        elif seeds:
            scores[label] = np.array([[column[seed] for column in by_task] for seed in seeds])
        else:
            left_out[label] = "no seed finished on every task"
    if not scores:
        return Across(scales, without_scale, left_out)
    pooled = np.concatenate([array.ravel() for array in scores.values()])
    low, high = min(0.0, float(pooled.min())), max(1.0, float(pooled.max()))
    taus = np.linspace(low - 0.02 * (high - low), high + 0.02 * (high - low), PROFILE_POINTS)
    return Across(
        scales=scales,
        without_scale=without_scale,
        left_out=left_out,
        scores=scores,
        iqm={label: _iqm(array) for label, array in scores.items()},
        improvement=_improvements(scores),
        taus=taus,
        profiles={label: statistics.performance_profile(array, taus) for label, array in scores.items()},
        profile_intervals={
            label: statistics.profile_interval(array, taus, rng=BOOTSTRAP_SEED)
            for label, array in scores.items()
            if len(array) >= MIN_SEEDS
        },
    )


def _scale(table: TaskTable) -> Scale | str:
    """The task's scale, or why it has none."""
    rows = table.finished
    if not rows:
        return "no run finished"
    if any("normalized" in row.estimates for row in rows if row.name != REFERENCE):
        return Scale(table.label, known=True)
    zeros = [value for row in rows if row.name == REFERENCE for value in row.values("objective")]
    if not zeros:
        return "the zero point is missing: `reference` has no result on it"
    best = next((row for row in rows if row.name != REFERENCE), None)
    if best is None:
        return "`reference` alone has a result on it"
    ones = best.values("objective")
    rise = float(np.mean(ones) - np.mean(zeros))
    errors = [np.var(values, ddof=1) / len(values) for values in (zeros, ones) if len(values) > 1]
    if rise <= 2 * math.sqrt(sum(errors)):
        return (
            f"no algorithm is clearly above the reference: the best, {best.label}, by {rise:.3g}, "
            "which is not two standard errors"
        )
    return Scale(table.label, known=False, zero=float(np.mean(zeros)), one=float(np.mean(ones)), best=best.label)


def _iqm(scores: np.ndarray) -> Estimate:
    interval = statistics.iqm_interval(scores, rng=BOOTSTRAP_SEED) if len(scores) >= MIN_SEEDS else None
    return Estimate(statistics.interquartile_mean(scores), interval, len(scores))


def _improvements(scores: Mapping[str, np.ndarray]) -> dict[tuple[str, str], Estimate]:
    """Each pair is computed once: P(Y > X) = 1 - P(X > Y), since ties count half."""
    labels, result = list(scores), {}
    for index, first in enumerate(labels):
        for second in labels[index + 1 :]:
            x, y = scores[first], scores[second]
            value, seeds = statistics.probability_of_improvement(x, y), min(len(x), len(y))
            interval = mirrored = None
            if seeds >= MIN_SEEDS:
                low, high = statistics.improvement_interval(x, y, rng=BOOTSTRAP_SEED, repetitions=2_000)
                interval, mirrored = (low, high), (1 - high, 1 - low)
            result[first, second] = Estimate(value, interval, seeds)
            result[second, first] = Estimate(1 - value, mirrored, seeds)
    return result
