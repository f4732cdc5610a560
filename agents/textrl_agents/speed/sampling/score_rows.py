"""Rows on scores after the fact: what a reward costs that is asked once a rollout, and not as each response ends."""

from __future__ import annotations

import dataclasses
import statistics
import time
from typing import Any

from textrl_agents.sb3 import make_agent
from textrl_agents.sb3.agent import SB3Phases
from textrl_agents.speed.measurement import Bench, Measured, Target, compare, compared, measurement
from textrl_agents.speed.workload import Workload


@measurement(Target(">=", 1.0), quick={"n_steps": 32})
def deferred_against_stepwise(bench: Bench, *, rows: int = 64, longest: int = 128, n_steps: int = 64) -> Measured:
    """Compare PPO's rollouts with the reward model asked once a rollout, and as each response ends.

    longest: tokens of a response at most; EOS ends most of them before. n_steps: of a rollout.
    """
    workload = bench.workload()
    later, stepwise = (
        workload.agent(rows, n_steps, longest, env_kwargs={"score_mode": mode}).collect
        for mode in ("deferred", "stepwise")
    )
    return compared(compare(later, stepwise, repeats=bench.repeats, device=bench.device), "deferred", "stepwise")


@measurement(Target("<=", 1.25), quick={"seconds": 0.2})
def slow_judge(bench: Bench, *, seconds: float = 1.0, rows: int = 16, n_steps: int = 16, longest: int = 64) -> Measured:
    """Compare the time of a rollout whose judge takes `seconds` a call with that of a rollout and one call.

    rows, n_steps: of a rollout, 256 tokens. longest: tokens of a response at most; EOS ends most of them before.
    """
    asked_once = _Judged(bench.workload(), "deferred", rows, n_steps, longest)
    asked_often = _Judged(bench.workload(), "stepwise", rows, n_steps, longest)
    plain = statistics.median(asked_once.rollout(0.0) for _ in range(bench.repeats + 1))
    asked_once.judge.calls = 0
    slow = statistics.median(asked_once.rollout(seconds) for _ in range(bench.repeats))
    calls = asked_once.judge.calls / bench.repeats
    stepwise = asked_often.rollout(seconds)
    detail = (
        f"a rollout of {rows * n_steps} tokens takes {plain:.2f} s; with {seconds:g} s a call {slow:.2f} s deferred "
        f"({calls:g} calls), {stepwise:.2f} s stepwise ({asked_often.judge.calls} calls)"
    )
    return Measured(slow / (plain + seconds), detail)


class _Judge:
    """A reward that sleeps, and counts its calls."""

    __name__ = "judge"

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, 0

    def __call__(self, prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        self.calls += 1
        time.sleep(self.seconds)
        return [len(completion) / 100 for completion in completions]


class _Judged:
    """PPO whose responses a `_Judge` scores."""

    def __init__(self, workload: Workload, score_mode: str, rows: int, n_steps: int, longest: int):
        self.judge = _Judge()
        arguments = {
            "task": dataclasses.replace(workload.task(rows, longest), reward=self.judge),
            "model": workload.model,
            "tokenizer": workload.tokenizer,
            "device": workload.device,
            "score_mode": score_mode,
        }
        agent = make_agent("ppo", n_envs=rows, n_steps=n_steps, env_kwargs=arguments, learning_rate=0.0, seed=0)
        self.phases = SB3Phases(agent)
        self.judge.calls = 0

    def rollout(self, seconds: float) -> float:
        """Run a rollout with a judge of `seconds` a call; returns its seconds."""
        self.judge.seconds = seconds
        start = time.perf_counter()
        self.phases.collect()
        return time.perf_counter() - start
