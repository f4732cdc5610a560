"""What the vector environment costs by itself: no model is called, the reward is trivial, the actions are scripted."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from textrl_agents.speed.timing import speed
from textrl_agents.speed.workload import Subject
from textrl_env import TextGenVectorEnv

MEAN_RESPONSE = 32  # tokens until EOS, on average; the environment's work grows with the number of episodes
SCRIPT_STEPS = 256


def zero(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """A reward that costs nothing."""
    return [0.0] * len(completions)


def microseconds_per_token(subject: Subject, *, rows: int, tokens: int, steps: int, repeats: int) -> float:
    """Median over `repeats` runs of `steps` steps of `rows` rows: append, end, decode, score, reset, infos.

    tokens: of the longest response; EOS ends most of them before.
    """
    task = dataclasses.replace(subject.task(rows, tokens), reward=zero)
    env = TextGenVectorEnv(
        rows,
        task,
        autoreset_mode=AutoresetMode.SAME_STEP,
        kl_mode="deferred",
        model=subject.model,
        tokenizer=subject.tokenizer,
        device=subject.device,
    )
    env.reset(seed=0)
    script = scripted_actions(env, rows)

    def run() -> int:
        for step in range(steps):
            env.step(script[step % len(script)])
        return rows * steps

    run()
    return 1e6 / statistics.median(speed(run, torch.device("cpu")) for _ in range(repeats))


def scripted_actions(env: TextGenVectorEnv, rows: int) -> np.ndarray:
    """int64 [steps, rows]: ordinary tokens, and EOS with probability 1 / MEAN_RESPONSE."""
    generator = np.random.default_rng(0)
    vocabulary = env.rules.vocabulary
    ordinary = np.setdiff1d(np.flatnonzero(vocabulary.known), vocabulary.eos_ids)
    script = generator.choice(ordinary, size=(SCRIPT_STEPS, rows))
    if len(vocabulary.eos_ids):
        script[generator.random(script.shape) < 1 / MEAN_RESPONSE] = vocabulary.eos_ids[0]
    return script
