"""The benchmark's tables, of each task and of all, from made-up result lines."""

import numpy as np
import pytest
from result_lines import failed, line, study

from textrl_agents.benchmark.aggregate import latest, summarize
from textrl_agents.benchmark.statistics import Estimate
from textrl_env.errors import ConfigError


def test_the_last_line_of_a_cell_counts():
    lines = [failed(seed=0), line(seed=0, score=2.0), line(seed=1), failed(seed=1, error="later")]
    (table,) = summarize(lines).tasks
    (row,) = table.rows
    assert [entry["seed"] for entry in row.lines] == [0]
    assert [(failure.seed, failure.error) for failure in row.failures] == [(1, "later")]
    assert len(latest(lines)) == 2


def test_a_run_without_a_finite_score_counts_as_failed():
    lines = [line(seed=0), line(seed=1, score=None), line(seed=2, kl=float("nan")), line(seed=3, gold_score=None)]
    (row,) = summarize(lines).tasks[0].rows
    assert row.estimates["score"] == Estimate(1.0, None, 1)
    assert [failure.error for failure in row.failures] == [
        "the run finished, but its score is None and no finite number",
        "the run finished, but its kl is nan and no finite number",
        "the run finished, but its gold_score is None and no finite number",
    ]


@pytest.mark.parametrize("score", [10**400, -(10**400), True, "high", float("inf")])
def test_a_score_that_no_float_can_hold_counts_as_failed(score):
    broken = line(seed=1)
    broken["metrics"]["score"] = score
    (row,) = summarize([line(seed=0), broken]).tasks[0].rows
    assert [failure.seed for failure in row.failures] == [1]
    assert row.failures[0].error.startswith("the run finished, but its score is ")


def test_runs_that_differ_in_a_setting_are_rows_of_their_own():
    lines = [line(seed=seed, settings={"n_steps": steps, "gamma": 1.0}) for seed in range(3) for steps in (8, 16)]
    lines += [line("dqn", seed=seed, settings={"n_steps": 4}) for seed in range(3)]
    (table,) = summarize(lines).tasks
    assert {row.label: len(row.lines) for row in table.rows} == {"ppo (n_steps=8)": 3, "ppo (n_steps=16)": 3, "dqn": 3}


def test_runs_in_another_environment_are_another_task():
    lines = [line(seed=seed, env=env) for seed in range(2) for env in ({}, {"kl_coef": 0.1})]
    summary = summarize(lines)
    assert [table.label for table in summary.tasks] == ["sentiment", "sentiment (kl_coef=0.1)"]
    assert summary.labels == ["ppo"]


def test_scores_over_all_tasks_by_hand():
    across = summarize(study()).across
    assert [(scale.task, scale.known) for scale in across.scales] == [("sentiment", False), ("exact", True)]
    # sentiment: 0 is the reference's 0.0 and 1 is PPO's 0.8; DQN's objectives are 0.2, 0.3 and 0.4.
    assert across.scores["dqn"] == pytest.approx(np.array([[0.25, 0.45], [0.375, 0.45], [0.5, 0.45]]))
    assert across.iqm["dqn"].value == pytest.approx((0.375 + 0.45 * 3) / 4)  # 0.25 and 0.5 go
    low, high = across.iqm["dqn"].interval
    assert 0.25 <= low < across.iqm["dqn"].value < high <= 0.5
    assert across.improvement["ppo", "dqn"].value == 1.0
    assert across.improvement["dqn", "ppo"].value == 0.0
    assert across.profiles["reference"][across.taus > 0].max() == 0.0


def test_improvement_of_a_pair_and_of_its_reverse_add_up():
    lines = [line("reference", seed=seed, score=-9.0, kl=0.0) for seed in range(4)]
    lines += [line("ppo", seed=seed, score=score) for seed, score in enumerate((1.0, 2.0, 3.0, 9.0))]
    lines += [line("dqn", seed=seed, score=score) for seed, score in enumerate((0.0, 2.5, 2.0, 1.5))]
    improvement = summarize(lines).across.improvement
    forward, back = improvement["ppo", "dqn"], improvement["dqn", "ppo"]
    # 1 is above 0; 2 above 0 and 1.5, a tie with 2; 3 and 9 above all: (1 + 2.5 + 4 + 4) / 16.
    assert forward.value == pytest.approx(11.5 / 16)
    assert back.value == pytest.approx(4.5 / 16)
    assert forward.interval[0] < 11.5 / 16 < forward.interval[1]
    assert back.interval == pytest.approx((1 - forward.interval[1], 1 - forward.interval[0]))


def test_what_is_missing_on_a_task_is_left_out_of_the_whole_with_a_reason():
    lines = study()
    lines += [line("sarsa", "exact", seed, normalized=0.5) for seed in range(3)]
    lines += [line("a2c", "exact", 0, normalized=0.5), line("a2c", "sentiment", 1)]
    lines += [line("ppo", "third", 0)]
    lines += [line("best_of_n", task, seed) for seed in range(3) for task in ("exact", "sentiment")]
    across = summarize(lines).across
    assert across.left_out == {
        "sarsa": "no result on sentiment",
        "a2c": "no seed finished on every task",
        "best_of_n": "its share of the optimum is not known on exact",
    }
    assert set(across.scores) == {"reference", "ppo", "dqn"}
    assert across.without_scale == {"third": "the zero point is missing: `reference` has no result on it"}


def test_a_task_on_which_nothing_was_learned_has_no_scale():
    """Else noise would be blown up to scores far below 0 and above 1."""
    lines = [line("reference", seed=seed, score=0.1 * seed, kl=0.0) for seed in range(3)]
    lines += [line("ppo", seed=seed, score=0.11 * seed, kl=0.0) for seed in range(3)]
    across = summarize(lines).across
    assert "no algorithm is clearly above the reference" in across.without_scale["sentiment"]
    assert not across.scores


def test_seeds_that_failed_on_one_task_count_on_none():
    lines = [entry for entry in study(5) if not (entry["algorithm"] == "ppo" and entry["task"] == "exact")]
    lines += [line("ppo", "exact", seed, normalized=0.1 * seed) for seed in (1, 2, 4)]
    assert summarize(lines).across.scores["ppo"][:, 1] == pytest.approx([0.1, 0.2, 0.4])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "no results to report: run `textrl bench run`"),
        ([line(), {"algorithm": "ppo"}], "line 2 of the results .* lacks key, task, seed, status"),
    ],
)
def test_refusals(lines, message):
    with pytest.raises(ConfigError, match=message):
        summarize(lines)
