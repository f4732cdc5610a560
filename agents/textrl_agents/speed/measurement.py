"""What a row of `textrl bench speed` is made of: how much work, what was measured, what must be reached."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import NamedTuple

import torch

from textrl_agents.runs.demo import TIMESTEPS
from textrl_agents.speed.timing import Comparison
from textrl_agents.speed.update_memory import VOCABULARY
from textrl_agents.speed.workload import Subject

_SIDES = {">=": operator.ge, "<=": operator.le}


class Target(NamedTuple):
    """What a value must reach, such as `>= 1.0`."""

    side: str
    limit: float

    def met_by(self, value: float) -> bool:
        return bool(_SIDES[self.side](value, self.limit))

    def __str__(self) -> str:
        return f"{self.side} {self.limit:g}"


class Sizes(NamedTuple):
    """How much work each measurement does."""

    rows: int  # sub-environments of a rollout
    tokens: int  # response tokens where all are equally long
    longest: int  # response tokens at most, where EOS ends them
    prefix_rows: int  # episodes of the update that runs one prefix per transition
    prefix_tokens: int
    long_tokens: int  # responses of the update's two lengths
    short_tokens: int
    batch_tokens: int  # transitions in a minibatch
    memory_rows: int  # episodes of `memory_tokens` each in the update whose memory is measured
    memory_tokens: int
    vocabulary: int
    env_steps: int
    exact_iterations: int | None  # None: as many as `train_exact` takes by itself
    exact_target: float
    demo_tokens: int
    rllib_rows: int  # episodes of `prefix_tokens` in RLlib's two updates
    rllib_updates: int  # before each of which the ratio is taken
    rllib_exact_iterations: int | None
    rllib_exact_target: float
    oracle_iterations: int | None


FULL = Sizes(
    rows=64,
    tokens=64,
    longest=128,
    prefix_rows=8,
    prefix_tokens=64,
    long_tokens=256,
    short_tokens=32,
    batch_tokens=2048,
    memory_rows=64,
    memory_tokens=64,
    vocabulary=VOCABULARY,
    env_steps=500,
    exact_iterations=None,
    exact_target=0.98,
    demo_tokens=TIMESTEPS,
    rllib_rows=16,
    rllib_updates=50,
    rllib_exact_iterations=None,
    rllib_exact_target=0.97,
    oracle_iterations=None,
)
# Fewer steps to the optimum, so it is not asked for.
QUICK = FULL._replace(
    tokens=32,
    prefix_rows=2,
    batch_tokens=1024,
    memory_rows=32,
    exact_iterations=40,
    exact_target=0.8,
    demo_tokens=16_384,
    rllib_rows=4,
    rllib_updates=10,
    rllib_exact_iterations=40,
    rllib_exact_target=0.8,
)


class Run(NamedTuple):
    """What a measurement needs."""

    device: torch.device
    subject: Callable[[], Subject]
    sizes: Sizes
    repeats: int


class Measured(NamedTuple):
    """One row's result."""

    value: float
    target: Target
    detail: str
    unit: str = "x"
    within: bool = True  # a second condition, told in the detail


def compared(result: Comparison, target: Target, ours: str, theirs: str) -> Measured:
    """A row of two speeds."""
    detail = f"{ours} {result.ours:,.0f} tokens/s, {theirs} {result.theirs:,.0f} tokens/s"
    return Measured(result.ratio, target, detail)
