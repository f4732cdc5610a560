"""What the results say: shares of the best schedule, with intervals over seeds, and how schedules do elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from textrl_agents.benchmark.finetune.jobs import Job
from textrl_agents.benchmark.finetune.plan import TABLES, FineTunePlan
from textrl_agents.reports.statistics import IntervalEstimate
from textrl_env.finetune.schedule_tree import ScheduleTree, tree_path

NEAR = 0.95
"""Share of the best schedule's gain that counts as near it."""


@dataclass(frozen=True)
class Learned:
    """What an agent learned on a data set, over seeds.

    shares: of the best schedule's gain, float64 [seeds]. segments: where the curve was looked at; curve: shares there,
    float64 [seeds, points]. actions: each seed's last schedule.
    """

    agent: str
    data: str
    shares: np.ndarray
    segments: np.ndarray
    curve: np.ndarray
    actions: Sequence[tuple[int, ...]]

    @property
    def share(self) -> IntervalEstimate:
        return IntervalEstimate.of(self.shares.tolist())

    def over(self, baseline: float) -> IntervalEstimate:
        """How far the shares are above a share that has no interval: a fixed schedule's."""
        return IntervalEstimate.of((self.shares - baseline).tolist())

    @property
    def first_near(self) -> int | None:
        """The first look from which on the mean share stays at NEAR or above, in segments."""
        near = self.curve.mean(axis=0) >= NEAR
        stays = np.flatnonzero(np.logical_and.accumulate(near[::-1])[::-1])
        return int(self.segments[stays[0]]) if len(stays) else None


@dataclass(frozen=True)
class Elsewhere:
    """Learned schedules by training on data in other orders. Gains: means over orders, with their intervals.

    constant: at the rate that was best where the schedules were learned. hindsight: at the rate that is best here.
    over_constant, over_hindsight: what the schedules gain more, order by order.
    """

    data: str
    learned: IntervalEstimate
    constant: IntervalEstimate
    hindsight: IntervalEstimate
    over_constant: IntervalEstimate
    over_hindsight: IntervalEstimate


@dataclass(frozen=True)
class Findings:
    """Everything that the report shows."""

    plan: FineTunePlan
    trees: dict[str, ScheduleTree]
    learned: list[Learned]
    elsewhere: list[Elsewhere]
    ppo: list[dict[str, Any]]

    @cached_property
    def best_gain(self) -> dict[str, float]:
        """Data set -> gain of its best schedule."""
        return {data: tree.best().gain for data, tree in self.trees.items()}

    def baseline(self, data: str, name: str) -> float:
        """The share of "constant", "cosine" or "linear" at its best peak."""
        return self.trees[data].best_baseline(name)[1] / self.best_gain[data]

    def of(self, agent: str, data: str) -> Learned:
        """What that agent learned there."""
        return next(each for each in self.learned if (each.agent, each.data) == (agent, data))

    def moved(self, agent: str, source: str, target: str) -> IntervalEstimate:
        """The share that schedules learned on `source` have of the best on `target`; both are enumerated."""
        gains = [self.trees[target].gain(actions) for actions in self.of(agent, source).actions]
        return IntervalEstimate.of([gain / self.best_gain[target] for gain in gains])

    @property
    def tables(self) -> list[str]:
        """The tables that learned."""
        return [agent for agent in self.plan.agents if agent in TABLES]

    def to_json(self) -> dict[str, Any]:
        """Numbers, texts, lists and mappings only."""
        return {
            "plan": self.plan.to_json(),
            "best": {
                data: {"gain": self.best_gain[data], "rates": tree.rates(tree.best().actions)}
                for data, tree in self.trees.items()
            },
            "baselines": {
                data: {
                    name: {"share": self.baseline(data, name), "peak": tree.best_baseline(name)[0]}
                    for name in tree.baselines
                }
                for data, tree in self.trees.items()
            },
            "agents": [
                {
                    "agent": each.agent,
                    "data": each.data,
                    "share": _json(each.share),
                    "over_constant": _json(each.over(self.baseline(each.data, "constant"))),
                    "first_near": each.first_near,
                    "shares": each.shares.tolist(),
                    "actions": [list(actions) for actions in each.actions],
                }
                for each in self.learned
            ],
            "moved": [
                {"agent": agent, "from": source, "to": target, "share": _json(self.moved(agent, source, target))}
                for agent in self.tables
                for source in self.plan.data
                for target in self.plan.data
            ],
            "elsewhere": [
                {"data": each.data, **{name: _json(value) for name, value in vars(each).items() if name != "data"}}
                for each in self.elsewhere
            ],
            "ppo": self.ppo,
        }


def read_findings(plan: FineTunePlan, folder: Path) -> Findings:
    """Read the results of all jobs."""
    trees = {data: ScheduleTree.load(tree_path(data)) for data in plan.data}
    learned = []
    for data in plan.data:
        best = trees[data].best().gain
        for agent in plan.agents if data == plan.data[0] else [each for each in plan.agents if each in TABLES]:
            results = [Job("agents", data, agent, seed).read(folder) for seed in range(plan.seeds)]
            points = min(len(result["curve"]) for result in results)
            curves = [[point["gain"] / best for point in result["curve"][:points]] for result in results]
            learned.append(
                Learned(
                    agent,
                    data,
                    np.array([result["gain"] / best for result in results]),
                    np.mean([[point["segments"] for point in result["curve"][:points]] for result in results], axis=0),
                    np.array(curves),
                    [tuple(result["actions"]) for result in results],
                )
            )
    # The rate that is best where the schedules were learned.
    rate = int(trees[plan.data[0]].baselines["constant"][1].argmax())
    elsewhere = [_elsewhere(data, Job("transfer", data).read(folder), rate) for data in (plan.data[0], *plan.unknown)]
    ppo = [Job("ppo", seed=seed).read(folder) for seed in range(plan.ppo_seeds)] if plan.ppo_episodes else []
    return Findings(plan, trees, learned, elsewhere, ppo)


def _elsewhere(data: str, result: dict[str, Any], rate: int) -> Elsewhere:
    learned = np.array(result["learned"]).mean(axis=1)  # [orders]
    constant = np.array(result["constant"])  # [orders, rates]
    best = constant[:, int(constant.mean(axis=0).argmax())]
    compared = (learned, constant[:, rate], best, learned - constant[:, rate], learned - best)
    return Elsewhere(data, *(IntervalEstimate.of(values.tolist()) for values in compared))


def _json(estimate: IntervalEstimate) -> dict[str, Any]:
    return {"mean": estimate.value, "interval": estimate.interval and list(estimate.interval), "seeds": estimate.seeds}
