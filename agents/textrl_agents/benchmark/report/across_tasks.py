"""Compare algorithms over all tasks: put the tasks on one scale, and take interquartile means.

On a task with a known optimum 0 is the reference and 1 the optimum. Elsewhere 1 is what the best of the same runs
reached, which is an estimate like the others. So intervals draw the reference and all algorithms anew together, and
find the best of each draw.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from textrl_agents.benchmark.report.task_tables import REFERENCE, TaskTable
from textrl_agents.reports import statistics
from textrl_agents.reports.statistics import MIN_SEEDS, IntervalEstimate

BOOTSTRAP_SEED = 0
PROFILE_POINTS = 301
PROFILE_REPETITIONS = 2_000

RunScores = dict[str, np.ndarray]  # label -> float64 [runs, tasks], of the seeds that finished on every task


@dataclass(frozen=True)
class Scale:
    """How a task's results become scores.

    known: whether 1 is the task's optimum; else it is the mean of `best`, the best algorithm of these results.
    """

    task: str
    known: bool
    zero: float = 0.0
    one: float = 1.0
    best: str = ""

    def scores(self, reached: np.ndarray) -> np.ndarray:
        """Put what runs reached on this scale."""
        return statistics.normalize(reached, self.zero, self.one)


@dataclass(frozen=True)
class TaskComparison:
    """A comparison of the algorithms that have a result on every task with a scale.

    without_scale: task -> why it has none. left_out: label -> why. scores: label -> float64 [runs, tasks].
    improvement: (x, y) -> P(x > y) of each pair, in both orders; it does not depend on the scales.
    taus: float64 [n]. profiles: label -> float64 [n]. profile_intervals: label -> float64 [2, n].
    """

    scales: tuple[Scale, ...] = ()
    without_scale: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    iqm: Mapping[str, IntervalEstimate] = field(default_factory=dict)
    improvement: Mapping[tuple[str, str], IntervalEstimate] = field(default_factory=dict)
    taus: np.ndarray = field(default_factory=lambda: np.zeros(0))
    profiles: Mapping[str, np.ndarray] = field(default_factory=dict)
    profile_intervals: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def ranked(self) -> list[str]:
        """Labels, the highest interquartile mean first."""
        return sorted(self.iqm, key=lambda label: -self.iqm[label].value)


def compare(tables: Sequence[TaskTable]) -> TaskComparison:
    """Compare the algorithms over all tasks. Intervals take at least `MIN_SEEDS` seeds."""
    without_scale = {table.label: reason for table in tables if (reason := _unscalable(table)) is not None}
    scaled = [table for table in tables if table.label not in without_scale]
    while True:  # a task that is dropped may let in algorithms that have a result on all others
        raw, left_out = _raw_scores(scaled)
        found = {table.label: _scale(table, place, raw) for place, table in enumerate(scaled)}
        reasons = {task: reason for task, reason in found.items() if isinstance(reason, str)}
        if not reasons:
            break
        without_scale |= reasons
        scaled = [table for table in scaled if table.label not in reasons]
    scales = tuple(scale for scale in found.values() if isinstance(scale, Scale))
    if not raw:
        return TaskComparison(scales, without_scale, left_out)
    scores = {
        label: np.stack([scale.scores(column) for scale, column in zip(scales, array.T, strict=True)], axis=1)
        for label, array in raw.items()
    }
    pooled = np.concatenate([array.ravel() for array in scores.values()])
    low, high = min(0.0, float(pooled.min())), max(1.0, float(pooled.max()))
    taus = np.linspace(low - 0.02 * (high - low), high + 0.02 * (high - low), PROFILE_POINTS)
    references = {row.label for table in scaled for row in table.rows if row.name == REFERENCE}
    iqm_intervals, profile_intervals = _intervals(raw, scales, references, taus)
    return TaskComparison(
        scales=scales,
        without_scale=without_scale,
        left_out=left_out,
        scores=scores,
        iqm={
            label: IntervalEstimate(statistics.interquartile_mean(array), iqm_intervals.get(label), len(array))
            for label, array in scores.items()
        },
        improvement=_improvements(scores),
        taus=taus,
        profiles={label: statistics.performance_profile(array, taus) for label, array in scores.items()},
        profile_intervals=profile_intervals,
    )


def _raw_scores(tables: Sequence[TaskTable]) -> tuple[RunScores, dict[str, str]]:
    """Return what each algorithm reached, not yet on any scale, and why others are left out."""
    raw: RunScores = {}
    left_out: dict[str, str] = {}
    for label in dict.fromkeys(row.label for table in tables for row in table.rows):
        rows = {table.label: table.row(label) for table in tables}
        missing = [task for task, row in rows.items() if row is None]
        if missing:
            left_out[label] = f"no result on {', '.join(missing)}"
            continue
        # Where the optimum is known, a run whose share of it could not be computed is missing here.
        by_task = [row.by_seed(table.measure) for table in tables if (row := rows[table.label]) is not None]
        seeds = sorted(set.intersection(*map(set, by_task)))
        unknown = [table.label for table, column in zip(tables, by_task, strict=True) if not column]
        if unknown:
            left_out[label] = f"its share of the optimum is not known on {', '.join(unknown)}"
        elif seeds:
            raw[label] = np.array([[column[seed] for column in by_task] for seed in seeds])
        else:
            left_out[label] = "no seed finished on every task"
    return raw, left_out


def _unscalable(table: TaskTable) -> str | None:
    """Why the task has no scale, for lack of results; None where it may have one."""
    names = {row.name for row in table.finished}
    if not names:
        return "no run finished"
    if table.measure == "normalized":
        return None
    if REFERENCE not in names:
        return "the zero point is missing: `reference` has no result on it"
    return "`reference` alone has a result on it" if names == {REFERENCE} else None


def _scale(table: TaskTable, place: int, raw: RunScores) -> Scale | str:
    """The task's scale, or why it has none. place: of the task's column in `raw`."""
    if table.measure == "normalized":
        return Scale(table.label, known=True)
    columns = {row.label: (row.name, raw[row.label][:, place]) for row in table.finished if row.label in raw}
    zeros = [column for name, column in columns.values() if name == REFERENCE]
    others = {label: column for label, (name, column) in columns.items() if name != REFERENCE}
    if not zeros or not others:
        return "`reference` and another algorithm are needed that have a result on every task"
    best = max(others, key=lambda label: others[label].mean())
    zero, one = float(np.mean([column.mean() for column in zeros])), float(others[best].mean())
    errors = [np.var(column, ddof=1) / len(column) for column in (*zeros, others[best]) if len(column) > 1]
    if one - zero <= 2 * math.sqrt(sum(errors)):
        return (
            f"no algorithm is clearly above the reference: the best, {best}, by {one - zero:.3g}, "
            "which is not two standard errors"
        )
    return Scale(table.label, known=False, zero=zero, one=one, best=best)


def _intervals(
    raw: RunScores, scales: Sequence[Scale], references: Collection[str], taus: np.ndarray
) -> tuple[dict[str, tuple[float, float]], dict[str, np.ndarray]]:
    """Return label -> the intervals of its interquartile mean and of its profile, where it has `MIN_SEEDS` seeds.

    The scale is drawn anew with the runs: in each draw 0 is the mean of the reference's runs, and 1 the highest mean of
    the other algorithms. A draw in which none of them is above the reference has no scale, and does not count.
    """
    labels, known = list(raw), np.array([scale.known for scale in scales])
    shown = [place for place, label in enumerate(labels) if len(raw[label]) >= MIN_SEEDS]
    if not shown:
        return {}, {}
    of_reference = np.array([label in references for label in labels])

    def rescaled(drawn: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Put resampled results [B, runs, tasks] of each label on the scales of their draws."""
        means = np.stack([array.mean(axis=1) for array in drawn])  # [labels, B, tasks]
        zero, one = np.zeros(means.shape[1:]), np.ones(means.shape[1:])
        if not known.all():
            zero = np.where(known, zero, means[of_reference].mean(axis=0))
            one = np.where(known, one, means[~of_reference].max(axis=0))
        rise = np.where(one > zero, one - zero, np.nan)[:, None]
        return [(drawn[place] - zero[:, None]) / rise for place in shown]

    samples = list(raw.values())
    bounds = statistics.bootstrap_interval(
        lambda *drawn: np.stack([statistics.iqms(array) for array in rescaled(drawn)], axis=1),
        *samples,
        rng=BOOTSTRAP_SEED,
    )  # [2, shown]
    bands = statistics.bootstrap_interval(
        lambda *drawn: np.stack([statistics.profiles(array, taus) for array in rescaled(drawn)], axis=1),
        *samples,
        rng=BOOTSTRAP_SEED,
        repetitions=PROFILE_REPETITIONS,
    )  # [2, shown, taus]
    names = [labels[place] for place in shown]
    iqm = {label: (float(low), float(high)) for label, (low, high) in zip(names, bounds.T, strict=True)}
    return iqm, {label: bands[:, at] for at, label in enumerate(names)}


def _improvements(scores: Mapping[str, np.ndarray]) -> dict[tuple[str, str], IntervalEstimate]:
    """Return P(X > Y) of each pair in both orders. Each is computed once: ties count half, so P(Y > X) is the rest."""
    labels, result = list(scores), {}
    for index, first in enumerate(labels):
        for second in labels[index + 1 :]:
            x, y = scores[first], scores[second]
            value, seeds = statistics.probability_of_improvement(x, y), min(len(x), len(y))
            interval = mirrored = None
            if seeds >= MIN_SEEDS:
                low, high = statistics.improvement_interval(x, y, rng=BOOTSTRAP_SEED, repetitions=2_000)
                interval, mirrored = (low, high), (1 - high, 1 - low)
            result[first, second] = IntervalEstimate(value, interval, seeds)
            result[second, first] = IntervalEstimate(1 - value, mirrored, seeds)
    return result
