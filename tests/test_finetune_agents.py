"""Agents that steer a training run: tables against values by hand, stock libraries, PPO as the run, the benchmark."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from textrl_agents.finetune.discretisation import Discretisation
from textrl_agents.finetune.learning_curve import LearningCurve, play
from textrl_agents.finetune.random_search import random_search
from textrl_agents.finetune.tabular import Table, TabularSettings, train_table
from textrl_env.errors import ConfigError, TextRLError, TrainingDiverged, UnknownName
from textrl_env.finetune import FineTuneEnv, Measurement, Settings
from textrl_env.finetune.replay import enumerated_env
from textrl_env.finetune.schedule_tree import ScheduleTree

MULTIPLIERS = (0.5, 2.0)
# Scores by depth and node; children of node i are 2i (half the rate) and 2i + 1 (twice).
# Greed takes 2.0 at first (0.5 against 0.1) and ends at 0.6; the best is 0.5 and then 2.0, which ends at 1.0.
SCORES = ([0.0], [0.1, 0.5], [0.2, 1.0, 0.55, 0.6])
BEST = (0, 1)


def hand_tree(scores: Any = SCORES) -> ScheduleTree:
    levels = [np.array([[score, 1.0, 1.0 - score / 2, 1.0, 0.0] for score in level]) for level in scores]
    settings = {"learning_rate": 1e-3, "optimizer": "adamw", "batch_size": 2, "order_seed": 0}
    return ScheduleTree(levels, MULTIPLIERS, settings, {}, {})


# --- what a table tells apart -----------------------------------------------------------------------------


def test_states_are_segment_rate_and_trend():
    env = enumerated_env(hand_tree())
    state_of = Discretisation().of(env)
    assert state_of(env.reset()[0]) == (0, 0, 0, 0, 0)
    assert state_of(env.step(1)[0]) == (1, 1, 0, 0, 0)  # twice the rate, and the loss fell
    env = enumerated_env(hand_tree(([0.0], [-0.1, 0.5], SCORES[2])))
    env.reset()
    assert state_of(env.step(0)[0]) == (1, -1, 0, 0, 1)  # the loss rose
    assert Discretisation(loss_changes=()).of(env)(env.step(0)[0]) == (2, -2, 0, 0, 0)


def test_the_change_of_the_loss_is_relative_to_the_loss():
    """It falls by a quarter twice: by 25% of 1, and by 33% of 0.75."""
    env = enumerated_env(hand_tree(([0.0], [0.1, 0.5], [0.2, 1.0, 0.55, 1.0])))
    state_of = Discretisation(loss_changes=(-0.2, -0.3)).of(env)
    env.reset()
    assert [state_of(env.step(1)[0])[-1] for _ in range(2)] == [1, 0]


def test_a_table_of_the_whole_environment_has_45_pairs_of_segment_and_rate():
    """Multipliers are powers of two from -2 to 2: after k segments there are 4k + 1 rates."""
    env = enumerated_env("translate")
    state_of = Discretisation(loss_changes=()).of(env)
    seen, rng = set(), np.random.default_rng(0)
    for _ in range(1000):
        observation, _ = env.reset()
        for action in rng.integers(5, size=5):
            seen.add(state_of(observation)[:2])
            observation, _, ended, _, _ = env.step(action)
            if ended:
                break
    assert len(seen) <= sum(4 * segment + 1 for segment in range(5)) == 45
    assert len(seen) >= 40


def test_loss_changes_must_be_numbers():
    with pytest.raises(ConfigError, match="loss_changes must be finite"):
        Discretisation(loss_changes=(float("nan"),)).of(enumerated_env(hand_tree()))


# --- tables -----------------------------------------------------------------------------------------------


def test_a_value_moves_by_the_rate_of_its_visits():
    table = Table(2, TabularSettings(rate=1.0))
    for target in (1.0, 3.0, 5.0):
        table.move((0,), 1, target)
    assert table.q[(0,)].tolist() == [0.0, 3.0]  # the mean
    table = Table(2, TabularSettings(rate=0.5, optimism=2.0))
    table.move((0,), 0, 1.0)
    table.move((0,), 0, 3.0)
    assert table.q[(0,)].tolist() == pytest.approx([1 + 2 * 2**-0.5, 2.0])
    assert table.best((0,)) == 0  # the other one was never tried
    assert table.best((7,)) == 0


def test_q_learning_finds_the_values_of_dynamic_programming():
    env = enumerated_env(hand_tree())
    table = train_table("q_learning", env, 2000, settings=TabularSettings(exploration=(1.0, 1.0)))
    start, half, twice = (0, 0, 0, 0, 0), (1, -1, 0, 0, 0), (1, 1, 0, 0, 0)
    assert table.q[half] == pytest.approx([0.1, 0.9])
    assert table.q[twice] == pytest.approx([0.05, 0.1])
    assert table.q[start] == pytest.approx([1.0, 0.6], abs=0.02)
    state_of = Discretisation().of(env)
    assert play(env, lambda observation: table.best(state_of(observation))).actions == BEST


@pytest.mark.parametrize("kind", ["q_learning", "sarsa"])
def test_nothing_follows_the_end_of_an_episode(kind: Any):
    """However much an agent hopes for from states that it has not seen, the last reward is the last."""
    settings = TabularSettings(exploration=(1.0, 1.0), rate=1.0, optimism=5.0)
    table = train_table(kind, enumerated_env(hand_tree()), 400, settings=settings)
    assert table.q[(1, -1, 0, 0, 0)] == pytest.approx([0.1, 0.9])
    assert table.q[(1, 1, 0, 0, 0)] == pytest.approx([0.05, 0.1])


def test_sarsa_learns_the_value_of_the_policy_that_acts():
    """Of uniformly random actions: the mean of what follows, where Q-learning has the best of it."""
    env = enumerated_env(hand_tree())
    settings = TabularSettings(exploration=(1.0, 1.0), rate=1.0)
    table = train_table("sarsa", env, 4000, settings=settings)
    assert table.q[(0, 0, 0, 0, 0)] == pytest.approx([0.1 + (0.1 + 0.9) / 2, 0.5 + (0.05 + 0.1) / 2], abs=0.05)


@pytest.mark.parametrize("kind", ["q_learning", "sarsa"])
def test_a_table_learns_what_greed_misses(kind: Any):
    env, curve = enumerated_env(hand_tree()), LearningCurve(enumerated_env(hand_tree()), 100)
    train_table(kind, env, 1000, seed=3, curve=curve)
    assert curve.points[-1].played == (BEST, 1.0)
    assert [point.segments for point in curve.points] == list(range(100, 1001, 100))
    again = LearningCurve(enumerated_env(hand_tree()), 100)
    train_table(kind, enumerated_env(hand_tree()), 1000, seed=3, curve=again)
    assert again.as_json() == curve.as_json()
    json.dumps(again.as_json(), allow_nan=False)


def test_q_learning_comes_within_5_percent_of_the_best_of_all_schedules():
    env = enumerated_env("translate")
    curve = LearningCurve(enumerated_env("translate"), 4000)
    train_table("q_learning", env, 4000, curve=curve)
    tree = env.run.tree
    assert curve.points[-1].played.gain > 0.95 * tree.best().gain > tree.best_baseline("constant")[1]


def test_random_search_keeps_the_best_that_it_saw():
    env, curve = enumerated_env(hand_tree()), LearningCurve(enumerated_env(hand_tree()), 10)
    assert random_search(env, 100, curve=curve) == (BEST, 1.0)
    gains = [point.played.gain for point in curve.points]
    assert gains == sorted(gains)
    short = random_search(env, 1, seed=1)
    assert short.gain == hand_tree().gain(short.actions)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"rate": 2}, "rate must be a number between 0 and 1"),
        ({"exploration": (1.5, 0)}, "exploration must be"),
        ({"explored": 0}, "explored must be"),
        ({"optimism": float("inf")}, "optimism must be"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], match: str):
    with pytest.raises(ConfigError, match=match):
        TabularSettings(**settings)
    with pytest.raises(UnknownName, match="Did you mean 'q_learning'"):
        train_table("q_lerning", enumerated_env(hand_tree()), 10)  # type: ignore[arg-type]


# --- stock libraries --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings"), [("dqn", {"learning_starts": 40}), ("ppo", {}), ("a2c", {})])
def test_sb3_learns_in_it(name: str, settings: dict[str, Any]):
    from textrl_agents.finetune.sb3_agents import CLASSES, train_sb3

    curves = [LearningCurve(enumerated_env(hand_tree()), 100) for _ in range(2)]
    state = torch.get_rng_state()
    for curve in curves:
        agent = train_sb3(name, enumerated_env(hand_tree()), 200, seed=1, curve=curve, **settings)
        torch.set_rng_state(state)
    assert type(agent) is CLASSES[name]
    assert curves[0].as_json() == curves[1].as_json()
    assert curves[0].points[-1].segments == 200
    with pytest.raises(UnknownName):
        train_sb3("dqm", enumerated_env(hand_tree()), 10)


def test_a_curve_is_looked_at_by_multiples_and_when_training_has_ended():
    """Looks of all seeds stand side by side, and the last is of what was learned at last."""
    curve = LearningCurve(enumerated_env(hand_tree()), 10)
    for segments in (9, 13, 19, 20, 38):
        curve.note(segments, lambda observation: 0)
    assert [point.segments for point in curve.points] == [13, 20, 38]
    curve.end(38, lambda observation: 1)
    assert [point.segments for point in curve.points] == [13, 20, 38]
    assert curve.points[-1].played.actions == (1, 1), "what was looked at before the last update does not stay"
    curve.end(39, lambda observation: 0)
    assert [point.segments for point in curve.points] == [13, 20, 38, 39]


@pytest.mark.slow
def test_a_training_that_ends_within_an_episode_is_looked_at():
    from textrl_agents.finetune.sb3_agents import train_sb3

    curve = LearningCurve(enumerated_env("translate"), 7)
    train_sb3("dqn", enumerated_env("translate"), 7, curve=curve)
    assert [point.segments for point in curve.points] == [7]


def test_looking_at_a_curve_changes_nothing():
    from textrl_agents.finetune.sb3_agents import train_sb3

    weights = []
    for curve in (None, LearningCurve(enumerated_env(hand_tree()), 20)):
        agent = train_sb3("a2c", enumerated_env(hand_tree()), 100, seed=1, curve=curve)
        weights.append(torch.nn.utils.parameters_to_vector(agent.policy.parameters()))
    assert torch.equal(*weights)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
def test_rllib_learns_in_it(ray_cluster: None):
    from textrl_agents.finetune.rllib_agent import greedy, train_rllib

    curve = LearningCurve(enumerated_env(hand_tree()), 200)
    module = train_rllib(lambda: enumerated_env(hand_tree()), 600, seed=0, curve=curve)
    assert [point.segments for point in curve.points] == [200, 400, 600]
    assert play(enumerated_env(hand_tree()), greedy(module)) == curve.points[-1].played


# --- PPO as the run ---------------------------------------------------------------------------------------


SMALL_PPO: dict[str, Any] = {"rollouts": 1, "arguments": {"n_envs": 8, "n_steps": 10, "batch_size": 40, "n_epochs": 2}}


def small_ppo(**arguments: Any) -> Any:
    from textrl_agents.finetune.ppo_run import PPORun

    return PPORun(**SMALL_PPO, **arguments)


@pytest.mark.slow
def test_ppo_is_a_run_with_a_known_optimum():
    env = FineTuneEnv(run=small_ppo(learning_rate=1e-3), segments=2)
    outside = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    first, _ = env.reset()
    assert env.columns.names[:3] == ("log10_learning_rate", "log10_kl_coef", "log10_clip_range")
    episodes = []
    for _ in range(2):
        observation, info = env.reset()
        assert observation.tobytes() == first.tobytes()
        assert info["score"] == pytest.approx(0, abs=1e-6)  # the reference
        episodes.append([env.step(3) for _ in range(2)])
    assert [step[0].tobytes() for step in episodes[0]] == [step[0].tobytes() for step in episodes[1]]
    info = episodes[0][-1][-1]
    assert sum(step[1] for step in episodes[0]) == pytest.approx(info["score"])
    assert info["validation_loss"] == pytest.approx(1 - info["score"])
    assert info["gradient_norm"] > 0
    assert -1 < info["score"] < 1
    # An agent in the same process goes on with its own random numbers.
    assert outside[:2] == (random.getstate(), np.random.get_state()[1].tolist())
    assert torch.equal(outside[2], torch.get_rng_state())


def test_ppo_takes_the_dials_that_it_is_given():
    run = small_ppo()
    env = FineTuneEnv(
        run=run, segments=2, multipliers={"learning_rate": (2.0,), "kl_coef": (0.5,), "clip_range": (3.0,)}
    )
    env.reset()
    env.step(0)
    agent = run._agent
    assert (agent.lr_schedule(1), agent.clip_range(1), agent.env.env.kl_penalty.coef) == (
        2e-4,
        pytest.approx(0.3),
        0.25,
    )
    assert agent.policy.optimizer.param_groups[0]["lr"] == 2e-4


@pytest.mark.slow
def test_a_policy_worse_than_the_reference_has_a_finite_share():
    env = FineTuneEnv(run=small_ppo(learning_rate=1e3), segments=3)
    env.reset()
    rewards, ended, info = [], False, {}
    while not ended:
        observation, reward, ended, _, info = env.step(4)
        rewards.append(reward)
        assert np.isfinite([*observation, reward]).all()
    assert info["score"] == pytest.approx(sum(rewards))
    assert -1 <= info["score"] < 0


def test_ppo_that_cannot_be_updated_has_diverged(monkeypatch: pytest.MonkeyPatch):
    env = FineTuneEnv(run=small_ppo())
    env.reset()

    def diverges(*arguments: Any, **named: Any) -> None:
        raise TrainingDiverged("the gradient's norm is inf")

    monkeypatch.setattr(env.run._agent, "learn", diverges)
    observation, reward, terminated, _, info = env.step(2)
    assert (reward, terminated, info["finish_reason"]) == (pytest.approx(-1.0), True, "diverged")
    assert np.isfinite(observation).all()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"task": "sentiment"}, "unknown task with a known optimum"),
        ({"learning_rate": 0}, "learning_rate must be"),
        ({"clip_range": float("inf")}, "clip_range must be"),
    ],
)
def test_ppo_runs_that_cannot_be(arguments: dict[str, Any], match: str):
    with pytest.raises(ConfigError, match=match):
        small_ppo(**arguments)


@pytest.mark.slow
def test_what_a_step_costs_is_measured_against_the_same_work(monkeypatch: pytest.MonkeyPatch):
    """The loop by hand runs as many tokens through the model, and its losses are those of the run."""
    from textrl_agents.speed.training.finetune_rows import _ByHand
    from textrl_env.finetune.supervised_run import SupervisedRun

    run = SupervisedRun(device="cpu", steps=2)
    loop, tokens = _ByHand(run.examples, torch.device("cpu")), {"run": 0, "loop": 0}
    for name, model in (("run", run.model), ("loop", loop.model)):
        model.register_forward_pre_hook(
            lambda module, args, named, name=name: tokens.update({name: tokens[name] + named["input_ids"].numel()}),
            with_kwargs=True,
        )
    settings = dataclasses.replace(run.settings, dials={"learning_rate": 1e-9})
    measured = run.train(settings)
    for _ in range(run.steps):
        loop.update(settings.batch_size)
    assert loop.judge() == pytest.approx(measured.validation_loss, rel=1e-5)
    assert tokens["run"] == tokens["loop"] > 0


# --- the benchmark ----------------------------------------------------------------------------------------


class ByRate:
    """A run whose score rises by how near its rate is to 1e-3, and by twice as much in order 2."""

    settings = Settings({"learning_rate": 1e-4}, "adamw", 4)

    def begin(self, order_seed: int) -> Measurement:
        self.order, self.score = order_seed, 0.0
        return Measurement(0.0, 1.0, 1.0, 1.0)

    def train(self, settings: Settings) -> Measurement:
        self.score += self.order / (1 + abs(math.log10(settings.dials["learning_rate"]) + 3))
        return Measurement(self.score, 1.0, 1.0, 1.0)


def test_schedules_are_tried_in_other_orders(monkeypatch: pytest.MonkeyPatch):
    from textrl_agents.benchmark.finetune import work
    from textrl_agents.benchmark.finetune.plan import FineTunePlan

    made: list[Any] = []
    monkeypatch.setattr(work, "SupervisedRun", lambda *data, **settings: made.append((data, settings)) or ByRate())
    still, rising = (2,) * 5, (3,) * 5
    found = work.transfer("story", [still, rising, still], FineTunePlan(orders=2))
    assert made == [
        (("story",), {"device": "cpu", "steps": 4, "batch_size": 4, "optimizer": "adamw", "learning_rate": 1e-4})
    ]
    gains = [sum(1 / (1 + abs(math.log10(rate) + 3)) for rate in rates)
             for rates in ([1e-4] * 5, [1e-4 * 2**power for power in range(1, 6)])]  # fmt: skip
    first = [gains[0], gains[1], gains[0]]
    assert found["learned"] == [pytest.approx(first), pytest.approx([2 * gain for gain in first])]
    assert [len(row) for row in found["constant"]] == [13, 13]
    constant = dict(zip(found["rates"], found["constant"][1], strict=True))
    assert constant[1e-4] == pytest.approx(2 * gains[0])


@pytest.mark.slow
def test_the_benchmark_from_plan_to_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One job in the pool; the others, with small runs, in this process, where nothing has to be imported again."""
    from textrl_agents.benchmark.finetune import work
    from textrl_agents.benchmark.finetune.jobs import perform, stages
    from textrl_agents.benchmark.finetune.plan import FineTunePlan
    from textrl_agents.benchmark.finetune.run import run_finetune
    from textrl_agents.finetune import ppo_run

    small = {"agents": ("q_learning", "a2c", "random_search"), "unknown": ("story",), "segments": 200, "every": 50}
    plan = FineTunePlan(**small, seeds=3, orders=3, ppo_episodes=1, ppo_seeds=1)
    out = tmp_path / "out"
    jobs = [job for stage in stages(plan) for job in stage]
    assert len(jobs) == 1 + 9 + 2
    left = next(job for job in jobs if job.agent == "a2c")
    with plan.holding(out), monkeypatch.context() as patch:
        patch.setattr(ppo_run, "PPORun", functools.partial(ppo_run.PPORun, **SMALL_PPO))
        patch.setattr(work, "SupervisedRun", lambda *data, **settings: ByRate())
        for job in jobs:
            if job != left:
                perform(job, plan, out)
    assert not left.is_done(out)
    findings = run_finetune(plan, out, progress=False)
    assert left.is_done(out)
    assert len(findings.ppo[0]["actions"]) == 5
    assert all(-1 <= share <= 1 for share in (findings.ppo[0]["share"], *findings.ppo[0]["constant"]))
    assert [(each.agent, each.data) for each in findings.learned] == [(agent, "translate") for agent in plan.agents]
    shares = findings.of("random_search", "translate").shares
    assert ((shares > 0.5) & (shares <= 1)).all()
    tree = findings.trees["translate"]
    for each, share in zip(findings.of("q_learning", "translate").actions, findings.learned[0].shares, strict=True):
        assert tree.gain(each) / tree.best().gain == pytest.approx(share)
    assert findings.moved("q_learning", "translate", "translate").value == pytest.approx(
        findings.of("q_learning", "translate").share.value
    )
    text = (out / "report.md").read_text()
    assert "figures/finetune.png" in text
    assert "Q-learning after 1 episodes" in text
    assert (out / "report.html").is_file()
    assert json.loads((out / "results.json").read_text())["plan"]["seeds"] == 3
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json") if path.parent != out}
    run_finetune(plan, out, progress=False)
    assert {path: path.stat().st_mtime_ns for path in before} == before  # nothing is done twice
    with pytest.raises(ConfigError, match="holds another plan: seeds is 3 there and 4 here"):
        run_finetune(FineTunePlan(**{**plan.to_json(), "seeds": 4}), out)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"is no benchmark: notes\.txt"):
        run_finetune(plan, tmp_path / "other")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ("--agents q_lerning", "Did you mean 'q_learning'"),
        ("--data sentiment", "unknown data set with enumerated schedules 'sentiment'"),
        ("--unknown storyy", "Did you mean 'story'"),
        ("--unknown sentiment", "unknown task with answers of its own to train on 'sentiment'"),
        ("--unknown story,story", "unknown must name at least one, and each once"),
        ("--unknown translate", "which the agents learn on"),
        ("--data ,", "--data takes names"),
    ],
)
def test_wrong_usage_is_told_in_a_line(arguments: str, match: str, tmp_path: Path):
    from typer.testing import CliRunner

    from textrl_agents.cli import app

    done = CliRunner().invoke(app, ["bench", "finetune", "--out", str(tmp_path / "out"), *arguments.split()])
    assert done.exit_code == 2
    assert match in done.output
    assert not (tmp_path / "out").exists()


def test_a_result_that_was_damaged_is_named(tmp_path: Path):
    from textrl_agents.benchmark.finetune.jobs import Job

    job = Job("transfer", "story")
    job.result(tmp_path).parent.mkdir()
    job.result(tmp_path).write_text('{"learned": [')
    with pytest.raises(TextRLError, match=r"story\.json cannot be read: .* Remove it, and the same command"):
        job.read(tmp_path)


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((0.1, 0.3), "it gains more than the constant rate"),
        ((-0.3, -0.1), "it gains less than the constant rate"),
        ((-0.1, 0.3), "it cannot be told apart"),
        (None, "too few orders for an interval"),
    ],
)
def test_what_is_said_of_a_schedule_elsewhere(interval: Any, verdict: str):
    from textrl_agents.benchmark.finetune.findings import Elsewhere
    from textrl_agents.benchmark.finetune.report import _verdict
    from textrl_agents.reports.statistics import IntervalEstimate

    value = IntervalEstimate(0.2, interval, 3)
    assert _verdict(Elsewhere("story", value, value, value, value, value)).startswith(verdict)


def test_schedules_elsewhere_are_compared_order_by_order():
    """The best constant rate there is one for all orders, however much another would gain in one of them."""
    from textrl_agents.benchmark.finetune.findings import _elsewhere

    result = {"learned": [[1.0, 3.0], [2.0, 2.0], [4.0, 2.0]], "constant": [[1.0, 0.5], [1.0, 3.0], [1.5, 2.5]]}
    found = _elsewhere("story", result, 0)
    means = {name: getattr(found, name).value for name in ("learned", "constant", "hindsight")}
    assert means == pytest.approx({"learned": 7 / 3, "constant": 3.5 / 3, "hindsight": 2.0})
    assert found.over_constant.value == pytest.approx((1.0 + 1.0 + 1.5) / 3)
    assert found.over_hindsight.value == pytest.approx((1.5 - 1.0 + 0.5) / 3)
    spread = np.std([1.0, 1.0, 1.5], ddof=1) / np.sqrt(3) * 4.302653
    assert found.over_constant.interval == pytest.approx((3.5 / 3 - spread, 3.5 / 3 + spread), abs=1e-5)


def test_the_first_look_that_stays_near():
    from textrl_agents.benchmark.finetune.findings import Learned

    curve = np.array([[0.5, 0.96, 0.90, 0.95, 1.0], [0.5, 0.96, 0.9, 0.97, 1.0]])
    learned = Learned("q_learning", "translate", curve[:, -1], np.arange(100, 600, 100), curve, [])
    assert learned.first_near == 400
    assert Learned("q_learning", "translate", curve[:, 2], learned.segments[:3], curve[:, :3], []).first_near is None


def test_each_schedule_of_the_hand_tree_has_the_gain_that_it_says():
    tree = hand_tree()
    gains = {actions: tree.gain(actions) for actions in itertools.product(range(2), repeat=2)}
    assert gains == {(0, 0): 0.2, (0, 1): 1.0, (1, 0): 0.55, (1, 1): 0.6}
