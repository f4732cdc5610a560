"""The row on the vector environment by itself: no model is called, the reward is trivial, the actions are scripted."""

from __future__ import annotations

import dataclasses
import statistics

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from textrl_agents.speed.measurement import Bench, Measured, Target, measurement
from textrl_agents.speed.timing import speed
from textrl_agents.speed.workload import zero_reward
from textrl_env import TextGenVectorEnv

MEAN_RESPONSE = 32  # tokens until EOS, on average; the environment's work grows with the number of episodes
SCRIPT_STEPS = 256


@measurement(Target("<=", 5.0), unit="us/token")
def environment_alone(bench: Bench, *, rows: int = 64, longest: int = 128, steps: int = 500) -> Measured:
    """Time a token in the environment: append, end, decode, score, reset, infos. The median over the repeats.

    longest: tokens of a response at most; EOS ends most of them before. steps: of all rows, in a repeat.
    """
    workload = bench.workload()
    env = TextGenVectorEnv(
        rows,
        dataclasses.replace(workload.task(rows, longest), reward=zero_reward),
        autoreset_mode=AutoresetMode.SAME_STEP,
        kl_mode="deferred",
        model=workload.model,
        tokenizer=workload.tokenizer,
        device=bench.device,
    )
    env.reset(seed=0)
    script = scripted_actions(env, rows)

    def run() -> int:
        for step in range(steps):
            env.step(script[step % len(script)])
        return rows * steps

    run()
    per_second = statistics.median(speed(run, torch.device("cpu")) for _ in range(bench.repeats))
    detail = f"{rows} rows, no model called, responses of {MEAN_RESPONSE} tokens on average"
    return Measured(1e6 / per_second, detail)


def scripted_actions(env: TextGenVectorEnv, rows: int) -> np.ndarray:
    """Return int64 [steps, rows]: ordinary tokens, and EOS with probability 1 / MEAN_RESPONSE."""
    generator = np.random.default_rng(0)
    vocabulary = env.rules.vocabulary
    ordinary = np.setdiff1d(np.flatnonzero(vocabulary.known), vocabulary.eos_ids)
    script = generator.choice(ordinary, size=(SCRIPT_STEPS, rows))
    if len(vocabulary.eos_ids):
        script[generator.random(script.shape) < 1 / MEAN_RESPONSE] = vocabulary.eos_ids[0]
    return script
