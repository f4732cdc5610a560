"""The benchmark's tables, of each task and of all, from made-up result lines."""

import numpy as np
import pytest
from result_lines import failed, line, study

from textrl_agents.benchmark.report.summary import latest, summarize
from textrl_agents.reports.statistics import IntervalEstimate
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
    assert row.estimates["score"] == IntervalEstimate(1.0, None, 1)
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
    comparison = summarize(study()).comparison
    assert [(scale.task, scale.known) for scale in comparison.scales] == [("sentiment", False), ("exact", True)]
    # sentiment: 0 is the reference's 0.0 and 1 is PPO's 0.8; DQN's objectives are 0.2, 0.3 and 0.4.
    assert comparison.scores["dqn"] == pytest.approx(np.array([[0.25, 0.45], [0.375, 0.45], [0.5, 0.45]]))
    assert comparison.iqm["dqn"].value == pytest.approx((0.375 + 0.45 * 3) / 4)  # 0.25 and 0.5 go
    low, high = comparison.iqm["dqn"].interval
    # PPO's mean, the 1 of the scale, is between 0.7 and 0.9 in any draw, and DQN's between 0.2 and 0.4.
    assert 0.2 / 0.9 <= low < comparison.iqm["dqn"].value < high <= 0.4 / 0.7
    assert comparison.improvement["ppo", "dqn"].value == 1.0
    assert comparison.improvement["dqn", "ppo"].value == 0.0
    assert comparison.profiles["reference"][comparison.taus > 0].max() == 0.0


def test_the_zero_of_a_scale_is_the_references_objective():
    """Not 0: here the reference has 2, the best 4, so that 3 is half of the way."""
    lines = [line("reference", seed=seed, objective=2.0 + 0.01 * seed) for seed in range(3)]
    lines += [line("ppo", seed=seed, objective=4.01) for seed in range(3)]
    lines += [line("dqn", seed=seed, objective=3.01) for seed in range(3)]
    comparison = summarize(lines).comparison
    (scale,) = comparison.scales
    assert (scale.zero, scale.one, scale.best) == (pytest.approx(2.01), pytest.approx(4.01), "ppo")
    assert comparison.scores["dqn"] == pytest.approx(np.full((3, 1), 0.5))
    assert comparison.scores["reference"][:, 0] == pytest.approx([-0.005, 0.0, 0.005])


def test_the_best_that_a_scale_ends_at_is_drawn_anew_too():
    """PPO is 1 by definition, in every draw; what varies is how far below it DQN is.

    The mean of three draws from 1, 2 and 3 is 1 in 1 of 27 cases, which is more than 2.5%, and 3 in as many.
    """
    lines = [line("reference", seed=seed, objective=0.0) for seed in range(3)]
    lines += [line("ppo", seed=seed, objective=1.0 + seed) for seed in range(3)]
    lines += [line("dqn", seed=seed, objective=1.0) for seed in range(3)]
    comparison = summarize(lines).comparison
    assert comparison.iqm["ppo"].interval == pytest.approx((1.0, 1.0))
    assert comparison.iqm["dqn"].value == pytest.approx(0.5)
    assert comparison.iqm["dqn"].interval == pytest.approx((1 / 3, 1.0))
    band = comparison.profile_intervals["dqn"][:, np.searchsorted(comparison.taus, 0.6)]
    assert band.tolist() == [0.0, 1.0]  # at a fixed scale every draw of DQN would be at 0.5, below 0.6


def test_a_draw_without_a_scale_does_not_count():
    """Of these runs a draw can have the reference above all others; by a fixed scale there would be none."""
    lines = [line("reference", seed=seed, objective=1.2 * (seed == 2)) for seed in range(3)]
    lines += [line("ppo", seed=seed, objective=1.0 + seed) for seed in range(3)]
    comparison = summarize(lines).comparison
    assert np.isfinite(comparison.iqm["reference"].interval).all()
    assert np.isfinite(comparison.profile_intervals["reference"]).all()


def test_what_is_first_is_first_by_the_best_quantity_known():
    """By 128 samples DQN looks better; the exact value says that PPO is."""
    lines = []
    for seed in range(3):
        lines += [line("reference", "exact", seed, objective=0.0, normalized=0.0)]
        lines += [line("dqn", "exact", seed, objective=0.9, normalized=0.5)]
        lines += [line("ppo", "exact", seed, objective=0.8, normalized=0.9)]
        lines += [line("a2c", "exact", seed, objective=5.0)]  # its share could not be computed
    (table,) = summarize(lines).tasks
    assert table.measure == "normalized"
    assert [row.label for row in table.rows] == ["ppo", "dqn", "reference", "a2c"]
    (table,) = summarize([entry | {"task": "sentiment"} for entry in study() if entry["task"] == "sentiment"]).tasks
    assert table.measure == "objective"


def test_while_runs_are_missing_nothing_is_said_of_all_tasks():
    lines = study()
    keys = [entry["key"] for entry in lines]
    whole = summarize(lines, keys)
    assert (whole.done, whole.planned, whole.is_partial) == (18, 18, False)
    assert whole.comparison.iqm
    for partial in (
        summarize(lines, [*keys, "one more"]),
        summarize(lines[:-1], keys),
        summarize([*lines[:-1], failed("dqn", "exact", 2, normalized=0.45)], keys),
    ):
        assert partial.is_partial
        assert not partial.comparison.iqm
        assert len(partial.tasks) == 2
    assert summarize([*lines, line("sarsa", "exact")], keys).done == 18


def test_own_prompts_and_rewards_are_tasks_of_their_own():
    named = {"title": "reward mine.py:f on own prompts", "split": "train"}
    lines = [line(seed=seed) for seed in range(2)]
    lines += [line(seed=seed, env={"reward": "mine.py:f"}, **named) for seed in range(2)]
    own, other = sorted(summarize(lines).tasks, key=lambda table: table.label)
    assert (own.label, own.name, own.prompts) == (named["title"], named["title"], "training prompts")
    assert (other.label, other.prompts) == ("sentiment", "")


def test_improvement_of_a_pair_and_of_its_reverse_add_up():
    lines = [line("reference", seed=seed, score=-9.0, kl=0.0) for seed in range(4)]
    lines += [line("ppo", seed=seed, score=score) for seed, score in enumerate((1.0, 2.0, 3.0, 9.0))]
    lines += [line("dqn", seed=seed, score=score) for seed, score in enumerate((0.0, 2.5, 2.0, 1.5))]
    improvement = summarize(lines).comparison.improvement
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
    comparison = summarize(lines).comparison
    assert comparison.left_out == {
        "sarsa": "no result on sentiment",
        "a2c": "no seed finished on every task",
        "best_of_n": "its share of the optimum is not known on exact",
    }
    assert set(comparison.scores) == {"reference", "ppo", "dqn"}
    assert comparison.without_scale == {"third": "the zero point is missing: `reference` has no result on it"}


def test_a_task_on_which_nothing_was_learned_has_no_scale():
    """Else noise would be blown up to scores far below 0 and above 1."""
    lines = [line("reference", seed=seed, score=0.1 * seed, kl=0.0) for seed in range(3)]
    lines += [line("ppo", seed=seed, score=0.11 * seed, kl=0.0) for seed in range(3)]
    comparison = summarize(lines).comparison
    assert "no algorithm is clearly above the reference" in comparison.without_scale["sentiment"]
    assert not comparison.scores


def test_seeds_that_failed_on_one_task_count_on_none():
    lines = [entry for entry in study(5) if not (entry["algorithm"] == "ppo" and entry["task"] == "exact")]
    lines += [line("ppo", "exact", seed, normalized=0.1 * seed) for seed in (1, 2, 4)]
    assert summarize(lines).comparison.scores["ppo"][:, 1] == pytest.approx([0.1, 0.2, 0.4])


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
