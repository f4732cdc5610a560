"""What was measured, over the seeds: means with intervals, and which arms are on the frontier of score and loss.

An arm is dominated where another has both a higher score and a lower loss, each by more than the 95% interval of the
difference. Seed n of an arm is paired with seed n of the other: they began with the same weights. There is a frontier
for each of the two losses: of clean text, and of text as it was trained on, whose insults an aligned model should not
expect.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from textrl_agents.benchmark.job_pool import read_result
from textrl_agents.benchmark.pretraining.jobs import Job
from textrl_agents.benchmark.pretraining.measures import MEASURES
from textrl_agents.benchmark.pretraining.plan import ARMS, PretrainingPlan
from textrl_agents.reports.statistics import MIN_SEEDS, IntervalEstimate, mean_interval

LOSS_LABELS = MappingProxyType({"loss": "clean text", "loss_all": "all text"})
"""Measure of a loss -> what it is of."""


@dataclass(frozen=True)
class Findings:
    """values: (arm, measure) -> a value for each seed. samples: arm -> kind -> texts, of the first seed."""

    plan: PretrainingPlan
    values: dict[tuple[str, str], list[float]]
    samples: dict[str, dict[str, list[str]]]

    def estimate(self, arm: str, measure: str) -> IntervalEstimate:
        """The mean over seeds, and its 95% interval."""
        return IntervalEstimate.of(self.values[arm, measure])

    def difference(self, arm: str, other: str, measure: str) -> IntervalEstimate:
        """`arm - other`, seed by seed."""
        pairs = zip(self.values[arm, measure], self.values[other, measure], strict=True)
        return IntervalEstimate.of([ours - theirs for ours, theirs in pairs])

    def dominated_by(self, arm: str, loss: str) -> list[str]:
        """The arms that are better in both score and loss, beyond the intervals. loss: a key of `LOSS_LABELS`."""
        return [
            other
            for other in ARMS
            if other != arm
            and _is_above(self.difference(other, arm, "score"))
            and _is_above(self.difference(arm, other, loss))
        ]

    def frontier(self, loss: str) -> list[str]:
        """The arms that none dominates."""
        return [arm for arm in ARMS if not self.dominated_by(arm, loss)]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "plan": self.plan.to_json(),
            "frontier": {loss: self.frontier(loss) for loss in LOSS_LABELS},
            "arms": {
                arm: {
                    "dominated_by": {loss: self.dominated_by(arm, loss) for loss in LOSS_LABELS},
                    **{
                        name: {
                            "mean": float(np.mean(self.values[arm, name])),
                            "ci95": _interval(self.values[arm, name]),
                            "seeds": self.values[arm, name],
                        }
                        for name in MEASURES
                    },
                }
                for arm in ARMS
            },
            "samples": self.samples,
        }


def read_findings(plan: PretrainingPlan, folder: Path) -> Findings:
    """Read what the jobs have measured."""
    lines = {
        (arm, seed): read_result(Job("measure", arm, seed).result(folder)) for arm in ARMS for seed in range(plan.seeds)
    }
    values = {
        (arm, name): [float(lines[arm, seed][name]) for seed in range(plan.seeds)] for arm in ARMS for name in MEASURES
    }
    return Findings(plan, values, {arm: lines[arm, 0]["samples"] for arm in ARMS})


def _is_above(difference: IntervalEstimate) -> bool:
    """Whether it is above 0 by more than its interval. Never where there are too few seeds for one."""
    return difference.interval is not None and difference.interval[0] > 0


def _interval(values: list[float]) -> list[float] | None:
    return list(mean_interval(values)) if len(values) >= MIN_SEEDS else None
