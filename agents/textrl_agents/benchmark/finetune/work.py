"""What the jobs do: an agent's learning, a schedule on other data, PPO tuned by a table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from textrl_agents.benchmark.finetune.plan import RLLIB, SEARCH, TABLES, FineTunePlan
from textrl_agents.finetune.learning_curve import LearningCurve, play
from textrl_env.finetune import FineTuneEnv
from textrl_env.finetune.replay import enumerated_env
from textrl_env.finetune.schedule_tree import ScheduleTree, tree_path
from textrl_env.finetune.schedules import play_rates
from textrl_env.finetune.supervised_run import SupervisedRun
from textrl_env.finetune.training_run import LEARNING_RATE

PPO_RATES = (0.25, 0.5, 1.0, 2.0, 4.0)
PPO_CONSTANT = (1.0, 4.0, 16.0, 64.0)  # times the start's rate


def learn(agent: str, data: str, plan: FineTunePlan, seed: int) -> dict[str, Any]:
    """Let an agent learn from replayed training runs; return its last schedule and its learning curve."""
    env = enumerated_env(data)
    curve = LearningCurve(enumerated_env(data), plan.every)
    began = time.process_time()
    if agent in TABLES:
        from textrl_agents.finetune.tabular import train_table

        train_table(agent, env, plan.segments, seed=seed, curve=curve)  # type: ignore[arg-type]  # it is one of TABLES
    elif agent == SEARCH:
        from textrl_agents.finetune.random_search import random_search

        random_search(env, plan.segments, seed=seed, curve=curve)
    elif agent == RLLIB:
        from textrl_agents.finetune.rllib_agent import train_rllib

        train_rllib(lambda: enumerated_env(data), plan.segments, seed=seed, curve=curve)
    else:
        from textrl_agents.finetune.sb3_agents import train_sb3

        train_sb3(agent, env, plan.segments, seed=seed, curve=curve)
    last = curve.points[-1].played
    return {
        "actions": list(last.actions),
        "gain": last.gain,
        "curve": curve.as_json(),
        "cpu_seconds": time.process_time() - began,
    }


def transfer(data: str, learned: Sequence[tuple[int, ...]], plan: FineTunePlan) -> dict[str, Any]:
    """Train with learned schedules and at constant rates, with the data in other orders than the one learned in.

    Returns gains: `learned` [orders][schedules], `constant` [orders][rates], and those rates. The schedules come from
    the first data set.
    """
    tree = ScheduleTree.load(tree_path(plan.data[0]))
    said = tree.settings
    names = ("steps", "batch_size", "optimizer", LEARNING_RATE)
    run = SupervisedRun(data, device="cpu", **{name: said[name] for name in names})
    rates = tree.baselines["constant"][0].tolist()
    distinct = sorted(set(learned))  # agents that agree are tried once
    found: dict[str, Any] = {"rates": rates, "learned": [], "constant": []}
    for order in range(1, plan.orders + 1):
        gains = {actions: play_rates(run, tree.rates(actions), order) for actions in distinct}
        found["learned"].append([gains[actions] for actions in learned])
        found["constant"].append([play_rates(run, [rate] * tree.segments, order) for rate in rates])
    return found


def tune_ppo(plan: FineTunePlan, seed: int) -> dict[str, Any]:
    """Let a Q-learning table tune PPO on `exact`; return shares of the optimum, its own and at constant rates."""
    from textrl_agents.finetune.ppo_run import PPORun
    from textrl_agents.finetune.tabular import TabularSettings, train_table

    run = PPORun()
    env = FineTuneEnv(run=run, multipliers=PPO_RATES, order_seed=None)  # each episode with other samples
    settings = TabularSettings(exploration=(1.0, 0.1))
    table = train_table("q_learning", env, plan.ppo_episodes * env.segments, seed=seed, settings=settings)
    state_of = settings.discretisation.of(env)
    judging = FineTuneEnv(run=run, multipliers=PPO_RATES, order_seed=seed)
    played = play(judging, lambda observation: table.best(state_of(observation)))
    start = run.settings.dials[LEARNING_RATE]
    rates = [start * factor for factor in PPO_CONSTANT]
    return {
        "actions": list(played.actions),
        "share": played.gain,
        "rates": rates,
        "constant": [play_rates(run, [rate] * env.segments, seed) for rate in rates],
    }
