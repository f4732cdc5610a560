"""Every algorithm on every task: one update, one evaluation, finite numbers in every column."""

from __future__ import annotations

import math
from typing import Any

import pytest

from textrl_agents.algorithms.cell import Cell
from textrl_agents.algorithms.registry import algorithm_names, get_algorithm
from textrl_agents.benchmark.run_cell import run_cell
from textrl_env.tasks import get_task, task_names

# Small batches: what is tested is that the parts fit together. Tokens: of one update at least.
BUDGET = 96
ROWS = {"n_envs": 8}
ROLLOUT = {**ROWS, "n_steps": 12}
ASYNCHRONOUS = {"num_envs_per_env_runner": 8, "rollout_fragment_length": 12}
SMALL: dict[str, dict[str, Any]] = {
    "reference": {},
    "ppo": {**ROLLOUT, "n_epochs": 1},
    "a2c": ROLLOUT,
    "trpo": {**ROLLOUT, "cg_max_steps": 2, "n_critic_updates": 1},
    "nlpo": {**ROLLOUT, "n_epochs": 1},
    "reinforce": ROLLOUT,
    "rloo": {**ROLLOUT, "n_steps": 40, "group_size": 2},
    "grpo": {**ROLLOUT, "n_steps": 40, "group_size": 2, "n_epochs": 1},
    "dqn": {**ROWS, "train_freq": 12, "batch_size": 64},
    "qrdqn": {**ROWS, "train_freq": 12, "batch_size": 64},
    "soft_dqn": {**ROWS, "train_freq": 12, "batch_size": 64},
    "q_learning": ROWS,
    "sarsa": ROWS,
    "rllib_ppo": {**ASYNCHRONOUS, "num_epochs": 1},
    "rllib_appo": ASYNCHRONOUS,
    "rllib_impala": ASYNCHRONOUS,
    "best_of_n": {"n": 2},
    "expert_iteration": {"rounds": 1, "n": 2, "epochs": 1},
    **{name: {} for name in algorithm_names() if name.startswith("trl_")},
}
BUDGETS = {"rloo": 320, "grpo": 320, "expert_iteration": 320, "trl_dpo": 640, "trl_orpo": 640, "trl_kto": 640}
UNTRAINED = ("reference", "best_of_n")
# The embedded model writes no JSON: all its scores are 0, and no response is better than another.
WITHOUT_PAIRS = {(name, "json_answer") for name in ("trl_dpo", "trl_orpo", "trl_kto")}


QUICK = {"ppo": ("exact", "exact_turns", "sentiment", "calculator"), "rloo": ("exact",), "dqn": ("exact",)}


def marks(name: str, task: str) -> list[pytest.MarkDecorator]:
    if name.startswith("rllib"):
        return [pytest.mark.ray]
    return [] if task in QUICK.get(name, ()) else [pytest.mark.slow]


PAIRS = [
    pytest.param(name, task, marks=marks(name, task))
    for name in algorithm_names()
    for task in task_names()
    if get_algorithm(name).fits(task)
]


def test_every_algorithm_has_small_settings():
    assert set(SMALL) == set(algorithm_names())


@pytest.mark.parametrize(("name", "task"), PAIRS)
def test_pair(name: str, task: str, request: pytest.FixtureRequest):
    if name.startswith("rllib"):
        request.getfixturevalue("ray_cluster")  # one for all of them: starting Ray takes seconds
    cell = Cell(name, task, 0, BUDGETS.get(name, BUDGET), SMALL[name], eval_episodes=8, device="cpu")
    line = run_cell(cell)
    if (name, task) in WITHOUT_PAIRS:
        assert "have equal scores" in line["error"]
        return
    if name.startswith("trl_") and get_task(task).turns is not None:
        assert "several turns" in line["error"]  # TRL's trainers are refused, with the reason
        return
    assert line["status"] == "done", line["traceback"]
    assert line["tokens"] >= (0 if name in UNTRAINED else BUDGET // 2)
    assert {"score", "kl", "objective", "length", "distinct_1", "distinct_2"} <= line["metrics"].keys()
    assert all(math.isfinite(value) for value in line["metrics"].values())
    assert ("normalized" in line["metrics"]) == (task in ("exact", "exact_turns"))
    assert len(line["samples"]) == 6
    if name not in UNTRAINED and task == "exact":  # where so few tokens move a policy far enough to see it
        # A policy that was not touched has a KL of 0, and the greedy one of the value-based pays for being sure.
        assert abs(line["metrics"]["kl"]) > 1e-7
