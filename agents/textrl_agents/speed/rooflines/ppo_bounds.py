"""PPO's rollout and update, timed; the work that was in them; and the least time that a device's peaks allow for it."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from textrl_agents.sb3.agent import SB3Phases
from textrl_agents.speed.measurement import timed
from textrl_agents.speed.rooflines.model_costs import ModelCosts
from textrl_agents.speed.rooflines.peaks import Peaks
from textrl_env.trajectory import Trajectory


class RolloutWork(NamedTuple):
    """What a rollout had in it.

    steps: of all rows. actions: tokens sampled. states: tokens that one forward over each sequence runs, prompts and
        what was sampled before among them; what all begin with counts once. begun: tokens of prompts that were run
        while sampling.
    contexts: positions attended to by all of `states`, summed. acted_on: by the sampled tokens alone.
    """

    steps: int
    actions: int
    states: int
    begun: float
    contexts: int
    acted_on: int

    @classmethod
    def of(cls, agent: Any) -> RolloutWork:
        """Count the last rollout in an agent's buffer."""
        sequences = agent.rollout_buffer.trajectories
        lengths = np.array([len(each.ids) - 1 for each in sequences])  # no action follows the last id
        acted_on = sum(int(np.flatnonzero(each.is_action).sum()) for each in sequences)
        # Of a row's stretches the first goes on from the last rollout; each of the others begins with a prompt.
        prompt = float(np.mean([len(each.ids) for each in agent.env.env.prompts]))
        return cls(
            steps=agent.n_steps,
            actions=sum(map(len, sequences)),
            states=int(lengths.sum()) - _shared(sequences) * (len(sequences) - 1),
            begun=(len(sequences) - agent.n_envs) * prompt,
            contexts=int((lengths * (lengths + 1) // 2).sum()),
            acted_on=acted_on,
        )


def _shared(sequences: Sequence[Trajectory]) -> int:
    """Ids that all sequences begin with, before the first of which the state is asked for."""
    prompts = [each.ids[: int(each.is_action.argmax()) - 1] for each in sequences]
    shortest = min(map(len, prompts))
    alike = (np.stack([ids[:shortest] for ids in prompts]) == prompts[0][:shortest]).all(axis=0)
    return int(alike.cumprod().sum())


def rollout_bound(work: RolloutWork, costs: ModelCosts, peaks: Peaks) -> float:
    """Seconds that a rollout takes at least: its steps one after the other, prompts, and the reference's one pass.

    A step decodes a token of each row: the larger of its operations and of its bytes, the weights read once for all
    rows. The reward is not in it.
    """
    rows, context = work.actions / work.steps, work.acted_on / work.steps
    step = peaks.seconds(costs.forward_flops(rows, rows, context), costs.decode_bytes(context))
    prompts = peaks.seconds(costs.forward_flops(work.begun, 0, 0))
    reference = peaks.seconds(
        dataclasses.replace(costs, adapter=0).forward_flops(work.states, work.actions, work.contexts)
    )
    return work.steps * step + prompts + reference


def update_bound(work: RolloutWork, costs: ModelCosts, peaks: Peaks, epochs: int) -> float:
    """Seconds that an update takes at least: one pass forward and backward over each sequence, every epoch."""
    return epochs * peaks.seconds(costs.update_flops(work.states, work.actions, work.contexts))


class PPOTimes(NamedTuple):
    """Medians over the repeats, in seconds, and the least that the peaks allow."""

    rollout: float
    update: float
    rollout_bound: float
    update_bound: float
    tokens: float  # of a rollout

    @property
    def end_to_end(self) -> float:
        """Tokens a second, sampled and trained on."""
        return self.tokens / (self.rollout + self.update)


def time_ppo(phases: SB3Phases, peaks: Peaks, *, repeats: int, device: torch.device) -> PPOTimes:
    """Run rollouts and updates in turn, `repeats` of each after one that is not counted."""
    agent: Any = phases.agent
    costs = ModelCosts.of(agent.policy.actor_critic)
    found = []
    for _ in range(repeats + 1):
        tokens, rollout = timed(phases.collect, device)
        work = RolloutWork.of(agent)
        _, update = timed(phases.train, device)
        bounds = rollout_bound(work, costs, peaks), update_bound(work, costs, peaks, agent.n_epochs)
        found.append(PPOTimes(rollout, update, *bounds, tokens))
    return PPOTimes(*(statistics.median(each) for each in zip(*found[1:], strict=True)))
